package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// printed is what `go test -bench` prints, also when benchmarks fail and log.
const printed = `goos: linux
goarch: amd64
pkg: github.com/containai/containai/mage
cpu: AMD EPYC
BenchmarkRelease-2            1	90000000000 ns/op	        70.00 cold-s	       100.0 cold-script-s	         0.7000 cold-part
BenchmarkVerifyFamily/ours-2  3	 200000000 ns/op
BenchmarkVerifyFamily/cosign_v3.1.3-2  3	4000000000 ns/op	        86.00 statements
BenchmarkVerifyFamily/ours-2  3	 100000000 ns/op
BenchmarkVerifyFamily/ours-2  3	 900000000 ns/op
BenchmarkSomething            is logged here
--- FAIL: BenchmarkMoveTags
PASS
`

func TestResultsAreReadAndEverythingElseIsPassedOver(t *testing.T) {
	found, err := parse(strings.NewReader(printed))
	if err != nil {
		t.Fatal(err)
	}
	if found.cpu != "AMD EPYC" || len(found.values) != 3 {
		t.Errorf("parse = %+v", found)
	}
	for _, test := range []struct {
		value value
		want  float64
	}{
		{value{bench: "Release", unit: "cold-script-s"}, 100},
		{value{bench: "VerifyFamily/ours", unit: "ns/op"}, 0.2}, // the median of three
		{value{constant: 25}, 25},
	} {
		if got, ok := found.of(test.value); !ok || got != test.want {
			t.Errorf("%+v = %v, %v, want %v", test.value, got, ok, test.want)
		}
	}
	if got, ok := found.of(value{bench: "Release", unit: "unknown"}); ok {
		t.Errorf("an unknown unit is %v", got)
	}
}

func TestAResultThatCannotBeReadIsAnError(t *testing.T) {
	for name, line := range map[string]string{
		"a word for a number":   "BenchmarkA-2 1 many ns/op\n",
		"a number with no unit": "BenchmarkA-2 1 5 ns/op 7\n",
	} {
		if found, err := parse(strings.NewReader(line)); err == nil {
			t.Errorf("%s is read as %+v", name, found)
		}
	}
}

func TestAClaimThatIsMissedOrNotMeasuredIsSaid(t *testing.T) {
	found, err := parse(strings.NewReader(printed))
	if err != nil {
		t.Fatal(err)
	}
	some := []claim{
		{"kept", "a", value{bench: "Release", unit: "cold-s"}, "b", value{bench: "Release", unit: "cold-script-s"}, 0.7},
		{"missed", "a", value{bench: "Release", unit: "cold-s"}, "b", value{bench: "Release", unit: "cold-script-s"}, 0.6},
		{"shown", "a", value{bench: "Release", unit: "cold-script-s"}, "b", value{bench: "Release", unit: "cold-s"}, 0},
		{"absent", "a", value{bench: "MoveTags", unit: "ns/op"}, "b", value{constant: 1}, 1},
	}
	rows := compare(some, found)
	missed := lacking(rows)
	if len(missed) != 2 || !strings.HasPrefix(missed[0], "missed: 0.7 of Release") || !strings.HasPrefix(missed[1], "absent: not measured") {
		t.Errorf("lacking = %q", missed)
	}
	made := table(rows, place{})
	for _, want := range []string{
		`| <a id="kept"></a>a | 70 s | b | 100 s | **0.70** | ≤ 0.7 |`,
		`| <a id="missed"></a>a | 70 s | b | 100 s | 0.70 | ≤ 0.6, **missed** |`,
		`| <a id="shown"></a>a | 100 s | b | 70 s | 1.4 | nothing |`,
		`| <a id="absent"></a>a | – | b | – | not measured | ≤ 1 |`,
	} {
		if !strings.Contains(made, want+"\n") {
			t.Errorf("there is no line\n%s\nin\n%s", want, made)
		}
	}
}

func TestFiguresAreTwo(t *testing.T) {
	for n, want := range map[float64]string{0.00213: "0.0021", 0.064: "0.064", 0.7: "0.70", 1.06: "1.1", 9.99: "10.0", 31.4: "31", 6064: "6064", 0: "0"} {
		if got := figures(n); got != want {
			t.Errorf("figures(%v) = %s, want %s", n, got, want)
		}
	}
}

// The picture is XML, has a bar for every row that was measured, and none leaves it.
func TestThePictureHasABarForEachRow(t *testing.T) {
	rows := []row{
		{claim{id: "tiny & small", most: 0.5}, 1, 1e6, true},
		{claim{id: "huge", most: 1}, 1e6, 1, true},
		{claim{id: "absent", most: 1}, 0, 0, false},
	}
	decoder := xml.NewDecoder(strings.NewReader(plot(rows)))
	bars, over := 0, 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "rect" {
			continue
		}
		bars++
		for _, a := range start.Attr {
			if a.Name.Local == "class" && a.Value == "over" {
				over++
			}
		}
	}
	if bars != 2 || over != 1 {
		t.Errorf("%d bars, %d of them over what is claimed, want 2 and 1", bars, over)
	}
	if a, z := across(1e-9), across(1e9); a != label || z != label+width {
		t.Errorf("the scale goes from %d to %d, want %d to %d", a, z, label, label+width)
	}
}

func TestThePageIsWrittenBetweenItsMarkersAlone(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "benchmarks.md")
	if err := os.WriteFile(page, []byte("# Before\n"+begin+"old\n"+end+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	missed, err := write(strings.NewReader(printed), page, "../../..", now)
	if err != nil {
		t.Fatal(err)
	}
	if len(missed) < 10 {
		t.Errorf("most was not measured, and %q alone is said", missed)
	}
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(content)
	if !strings.HasPrefix(got, "# Before\n"+begin+"\nMeasured on 2026-11-26 by `go tool mage bench`") || !strings.HasSuffix(got, end+"after\n") || strings.Contains(got, "old\n") {
		t.Errorf("the page is\n%s", got)
	}
	if !strings.Contains(got, "(AMD EPYC)") || !regexp.MustCompile(`Buildx 0\.\d+\.\d+, Syft 1\.\d+\.\d+, Trivy 0\.`).MatchString(got) {
		t.Errorf("it does not say where and with what was measured:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "benchmarks.svg")); err != nil {
		t.Error(err)
	}
	if _, err := between([]byte("no markers"), ""); err == nil {
		t.Error("a page without markers is written")
	}
}

func TestNoTwoClaimsHaveOneName(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range claims() {
		if c.id == "" || seen[c.id] {
			t.Errorf("%q names two rows, or none", c.id)
		}
		seen[c.id] = true
	}
}

// Every result that a claim looks for is one that a benchmark of this repository can report: its name is declared.
func TestEveryClaimNamesABenchmarkThatExists(t *testing.T) {
	declared := map[string]bool{}
	err := filepath.WalkDir("../..", func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := os.ReadFile(name)
		for _, found := range regexp.MustCompile(`(?m)^func Benchmark(\w+)\(`).FindAllSubmatch(content, -1) {
			declared[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claims() {
		for _, v := range []value{c.ours, c.theirs} {
			if name, _, _ := strings.Cut(v.bench, "/"); name != "" && !declared[name] {
				t.Errorf("%s: there is no Benchmark%s", c.id, name)
			}
		}
	}
}
