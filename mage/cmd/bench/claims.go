package main

import (
	"cmp"
	"fmt"
	"slices"
)

// claim is one thing that this project says of itself: what ours takes, as a part of what something else takes.
type claim struct {
	id      string // names the row, for links
	what    string
	ours    value
	against string // the peer, or the limit
	theirs  value
	most    float64 // ours as a part of theirs, at most; zero claims nothing and only shows
}

// value is what a benchmark reported in a unit, or a constant.
type value struct {
	bench, unit string
	constant    float64
	shows       unit
}

// unit is how a value is shown.
type unit int

const (
	seconds unit = iota
	count
	mebibytes
)

// claims are all rows, in the order of the page.
func claims() []claim {
	const perOperation = "ns/op"
	op := func(bench string) value { return value{bench: bench, unit: perOperation} }
	took := func(bench, name string) value { return value{bench: bench, unit: name} }
	number := func(bench, name string) value { return value{bench: bench, unit: name, shows: count} }
	limit := func(n float64, shows unit) value { return value{constant: n, shows: shows} }
	const script = "bake, Syft, Trivy, cosign, oras and crane in a [script](../testdata/scripted/release.sh)"
	const scanners = "Syft, then Trivy, image by image"
	return []claim{
		{"release-cold", "release the real family, nothing built before", took("Release", "cold-s"), script, took("Release", "cold-script-s"), 0.7},
		{"release-unchanged", "release it again, nothing changed", took("Release", "unchanged-s"), script, took("Release", "unchanged-script-s"), 0.06},
		{"inspect-cold", "inspect its six images, nothing kept", took("InspectFamily", "cold-s"), scanners, took("InspectFamily", "cold-peers-s"), 0.4},
		{"inspect-again", "inspect them again", took("InspectFamily", "again-s"), scanners, took("InspectFamily", "again-peers-s"), 0.03},
		{"inspect-changed", "inspect them after one got a new layer", took("InspectFamily", "changed-s"), scanners, took("InspectFamily", "changed-peers-s"), 0.2},
		{"inspect-memory", "memory of the scanner worker", value{bench: "InspectFamily", unit: "peak-MiB", shows: mebibytes}, "limit", limit(2048, mebibytes), 1},
		{"sign", "sign all that is said of eight images, attach and read it back", op("SignFamily"), "limit", limit(10, seconds), 1},
		{"verify-cosign3", "verify a channel of eight images", op("VerifyFamily/ours"), "a loop of `cosign verify`, v3.1.3", op("VerifyFamily/cosign_v3.1.3"), 0.1},
		{"verify-cosign2", "the same", op("VerifyFamily/ours"), "a loop of `cosign verify`, v2.6.5", op("VerifyFamily/cosign_v2.6.5"), 0.1},
		{"verify", "the same", op("VerifyFamily/ours"), "limit", limit(1, seconds), 1},
		{"sigstore-first", "start the local Sigstore, which makes its keys", op("StartSigstore/first"), "limit", limit(2, seconds), 1},
		{"sigstore-again", "start it again", op("StartSigstore/again"), "limit", limit(2, seconds), 1},
		{"tags", "move a tag in nine repositories, 50 ms away", op("MoveTags/ours_warm"), "`oras tag`, nine times", op("MoveTags/oras_tag"), 0.25},
		{"tags-crane", "the same", op("MoveTags/ours_warm"), "`crane tag`, nine times", op("MoveTags/crane_tag"), 0.25},
		{"tags-imagetools", "the same", op("MoveTags/ours_warm"), "`buildx imagetools create`, nine times", op("MoveTags/imagetools_create"), 0.25},
		{"promote", "round trips of a promotion of nine repositories", number("MoveChannel/promote", "round-trips"), "limit", limit(25, count), 1},
		{"rollback", "round trips of a rollback, two releases compared", number("MoveChannel/rollback", "round-trips"), "limit", limit(30, count), 1},
		{"push-oras", "push 1 GiB, three images to a repository each", op("PushFamily/to_three_repositories/ours"), "`oras cp -r`", op("PushFamily/to_three_repositories/oras_cp"), 1},
		{"push-crane", "the same", op("PushFamily/to_three_repositories/ours"), "`crane push`", op("PushFamily/to_three_repositories/crane_push"), 1},
		{"push-one", "push it all to one repository", op("PushFamily/to_one_repository/ours"), "`oras cp -r`", op("PushFamily/to_one_repository/oras_cp"), 0},
		{"push-library", "push one image of 300 MiB", op("Push/ours"), "oras-go, the library below", op("Push/oras-go"), 1.1},
		{"prune", "plan a prune over 6,000 versions, 20 ms away", took("Plan/first_plan,_in_turns_with_a_bare_parallel_fetch", "s/plan"), "a bare parallel fetch", took("Plan/first_plan,_in_turns_with_a_bare_parallel_fetch", "s/fetch"), 1.5},
		{"prune-crane", "the same", took("Plan/first_plan,_in_turns_with_a_bare_parallel_fetch", "s/plan"), "`crane manifest`, 6,000 times", took("Plan/crane_manifest_in_a_shell_loop,_100_of_them", "s/all-of-them"), 0.25},
		{"prune-again", "requests of a second plan", number("Plan/second_plan", "requests"), "the first plan's", number("Plan/first_plan,_in_turns_with_a_bare_parallel_fetch", "requests"), 0.05},
		{"pack", "pack a tree of 30 MB, reproducibly", took("Pack", "ours-s"), "`tar | pigz -p2`", took("Pack", "pigz-s"), 0.5},
		{"start-list", "`mage -l`", op("Magefile/list/ours"), "of a magefile with one target", op("Magefile/list/bare"), 2},
		{"start-target", "`mage family:check`, warm", op("Magefile/target/ours"), "a target that prints a word", op("Magefile/target/bare"), 2},
		{"start-list-hash", "`mage -l`, with `MAGEFILE_HASHFAST=1`", op("Magefile/list_hashfast/ours"), "the same, of a magefile with one target", op("Magefile/list_hashfast/bare"), 2},
		{"start-target-hash", "`mage family:check`, warm, with `MAGEFILE_HASHFAST=1`", op("Magefile/target_hashfast/ours"), "the same, a target that prints a word", op("Magefile/target_hashfast/bare"), 2},
	}
}

// row is a claim with what was measured.
type row struct {
	claim
	our, their float64
	measured   bool
}

func (r row) part() float64 { return r.our / r.their }

func (r row) holds() bool { return r.measured && (r.most == 0 || r.part() <= r.most) }

func compare(claims []claim, measured results) []row {
	rows := make([]row, len(claims))
	for i, c := range claims {
		our, oursThere := measured.of(c.ours)
		their, theirsThere := measured.of(c.theirs)
		rows[i] = row{c, our, their, oursThere && theirsThere && their > 0}
	}
	return rows
}

// of is the median of the values that were measured.
func (r results) of(v value) (float64, bool) {
	if v.constant > 0 {
		return v.constant, true
	}
	values := slices.Sorted(slices.Values(r.values[v.bench][v.unit]))
	if len(values) == 0 {
		return 0, false
	}
	median := values[len(values)/2]
	if v.unit == "ns/op" {
		median /= 1e9
	}
	return median, true
}

// lacking says of each claim that does not hold why.
func lacking(rows []row) []string {
	var missed []string
	for _, r := range rows {
		switch {
		case !r.measured:
			missed = append(missed, fmt.Sprintf("%s: not measured (%s, %s)", r.id, r.ours.name(), r.theirs.name()))
		case !r.holds():
			missed = append(missed, fmt.Sprintf("%s: %.3g of %s, at most %v is claimed", r.id, r.part(), cmp.Or(r.theirs.bench, r.against), r.most))
		}
	}
	return missed
}

func (v value) name() string {
	if v.bench == "" {
		return "a limit"
	}
	return v.bench + " " + v.unit
}
