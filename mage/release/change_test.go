package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// candidate is the n-th release of the tiny family.
func candidate(n int) release.Candidate {
	r := record()
	r.Source.Commit = strings.Repeat(fmt.Sprintf("%x", n), 40)[:40]
	return release.Candidate{Record: r, Digest: digest.FromString(fmt.Sprint("record ", n))}
}

func by(reason string) release.Moved {
	return release.Moved{By: "someone", Run: "local", Reason: reason, At: now}
}

// log is a ledger in memory.
type log []release.Head

func (l log) head() release.Head {
	if len(l) == 0 {
		return release.Head{}
	}
	return l[len(l)-1]
}

func (l *log) append(t *testing.T, d release.Document) {
	t.Helper()
	content, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := release.DecodeDocument(content)
	if err != nil {
		t.Fatalf("what was planned is no document: %v\n%s", err, content)
	}
	*l = append(*l, release.Head{ID: fmt.Sprint(len(*l) + 1), Content: content, Document: read})
}

// history yields a log newest first, as a ledger does.
func (l log) history(yield func(release.Head, error) bool) {
	for i := len(l) - 1; i >= 0; i-- {
		if !yield(l[i], nil) {
			return
		}
	}
}

func (l *log) promote(t *testing.T, channel string, n int) {
	t.Helper()
	d, moved, err := release.PlanPromote(l.head(), "tiny", channel, candidate(n), by("release"))
	if err != nil || !moved {
		t.Fatalf("promoting %d: %v, %v", n, moved, err)
	}
	l.append(t, d)
}

func TestAChannelTakesAReleaseOnce(t *testing.T) {
	var l log
	l.promote(t, "dev", 1)
	first := l.head().Document
	if first.Generation != 1 || first.Previous != "" || first.Channels["dev"].Moved.Action != release.Promoted {
		t.Errorf("the first document is %+v", first)
	}
	if _, moved, err := release.PlanPromote(l.head(), "tiny", "dev", candidate(1), by("again")); moved || err != nil {
		t.Errorf("moving to what is served = %v, %v, want a no-op", moved, err)
	}
	l.promote(t, "nightly", 2)
	second := l.head().Document
	if second.Generation != 2 || second.Channels["dev"].Generation != 1 || len(first.Channels) != 1 {
		t.Errorf("another channel = %+v; the document before has %d channels", second, len(first.Channels))
	}
	versioned := candidate(2)
	versioned.Version = "v1.0.0"
	d, moved, err := release.PlanPromote(l.head(), "tiny", "nightly", versioned, by("name it"))
	if !moved || err != nil || d.Channels["nightly"].Version != "v1.0.0" {
		t.Errorf("giving what is served a version = %v, %v, %v", d.Channels["nightly"].Version, moved, err)
	}
}

func TestARollbackSticks(t *testing.T) {
	var l log
	l.promote(t, "prod", 1)
	l.promote(t, "prod", 2)
	d, err := release.PlanRollback(l.head(), "prod", candidate(1).State(), by("it loses data"), true)
	if err != nil {
		t.Fatal(err)
	}
	l.append(t, d)
	served := l.head().Document.Channels["prod"]
	if served.Record != candidate(1).Digest || served.Moved.Action != release.RolledBack || !strings.Contains(served.Hold, "it loses data") {
		t.Errorf("prod is %+v", served)
	}
	if _, _, err := release.PlanPromote(l.head(), "tiny", "prod", candidate(3), by("nightly")); !errors.Is(err, fault.Conflict) {
		t.Errorf("the next release to a channel that was rolled back: %v, want a Conflict", err)
	}
	if _, _, err := release.PlanPromote(l.head(), "tiny", "dev", candidate(2), by("elsewhere")); !errors.Is(err, fault.Refused) {
		t.Errorf("what was marked bad, to another channel: %v, want Refused", err)
	}
	free, moved, err := release.PlanUnhold(l.head(), "prod", by(""))
	if err != nil || !moved {
		t.Fatal(moved, err)
	}
	l.append(t, free)
	l.promote(t, "prod", 3)
	if _, err := release.PlanRollback(l.head(), "prod", candidate(2).State(), by("back to the bad one"), false); !errors.Is(err, fault.Refused) {
		t.Errorf("rolling back to what was marked bad: %v, want Refused", err)
	}
}

// After a rollback the way back goes on backwards, never to what was left.
func TestTheTrailLeavesOutWhatARollbackLeft(t *testing.T) {
	for name, tt := range map[string]struct{ moves, want []int }{ // a negative number is a rollback
		"promotions":                             {[]int{1, 2, 3}, []int{3, 2, 1}},
		"a rollback":                             {[]int{1, 2, 3, -2}, []int{2, 1}},
		"two rollbacks":                          {[]int{1, 2, 3, -2, -1}, []int{1}},
		"a rollback that skips, and a promotion": {[]int{1, 2, 3, -1, 4}, []int{4, 1}},
		"what was left, promoted again":          {[]int{1, 2, -1, 2}, []int{2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var l log
			for _, n := range tt.moves {
				if n > 0 {
					l.promote(t, "prod", n)
					continue
				}
				back, err := release.PlanRollback(l.head(), "prod", candidate(-n).State(), by("undo"), false)
				if err != nil {
					t.Fatal(err)
				}
				l.append(t, back)
				free, _, err := release.PlanUnhold(l.head(), "prod", by("go on"))
				if err != nil {
					t.Fatal(err)
				}
				l.append(t, free)
			}
			steps, err := release.Steps(l.history, "prod")
			if err != nil {
				t.Fatal(err)
			}
			var got, want []string
			for _, s := range release.Trail(steps) {
				got = append(got, s.Record.String())
			}
			for _, n := range tt.want {
				want = append(want, candidate(n).Digest.String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the trail (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPromoteThenRollbackServesTheSame(t *testing.T) {
	for n := range 8 {
		var l log
		l.promote(t, "prod", n+1)
		before := l.head().Document.Channels["prod"]
		l.promote(t, "prod", n+2)
		d, err := release.PlanRollback(l.head(), "prod", candidate(n+1).State(), by("undo"), false)
		if err != nil {
			t.Fatal(err)
		}
		after := d.Channels["prod"]
		if diff := cmp.Diff(before.Members, after.Members); diff != "" || after.Record != before.Record || after.Commit != before.Commit {
			t.Errorf("after promoting and rolling back prod serves something else: %s", diff)
		}
	}
}

func TestChangesThatSayTooLittleAreRefused(t *testing.T) {
	var l log
	l.promote(t, "prod", 1)
	l.promote(t, "prod", 2)
	head := l.head()
	for name, err := range map[string]error{
		"a rollback without a reason":  second(release.PlanRollback(head, "prod", candidate(1).State(), by(""), false)),
		"a hold without a reason":      third(release.PlanHold(head, "prod", by(""))),
		"a version that is none":       release.CheckVersion("1.2.3"),
		"a version with build data":    release.CheckVersion("v1.2.3+7"),
		"a version with leading zeros": release.CheckVersion("v01.2.3"),
	} {
		if !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, fault.HintOf(err))
		}
	}
	for name, err := range map[string]error{
		"rolling back to what is served": second(release.PlanRollback(head, "prod", candidate(2).State(), by("x"), false)),
		"rolling back a new channel":     second(release.PlanRollback(head, "dev", candidate(2).State(), by("x"), false)),
		"holding a new channel":          third(release.PlanHold(head, "dev", by("x"))),
		"refreshing nothing":             second(release.PlanRefresh(release.Head{}, now)),
		"adopting a ledger that is":      second(release.PlanAdopt(head, "tiny", map[string]release.Candidate{"dev": candidate(1)}, by("x"))),
	} {
		if !errors.Is(err, fault.Conflict) {
			t.Errorf("%s: %v, want a Conflict", name, err)
		}
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

func TestARefreshChangesNothingButTime(t *testing.T) {
	var l log
	l.promote(t, "prod", 1)
	d, err := release.PlanRefresh(l.head(), now.Add(80*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(l.head().Document.Channels, d.Channels); diff != "" || len(d.Changed()) != 0 || !d.Expires.After(l.head().Document.Expires) {
		t.Errorf("refreshed: %+v %s", d, diff)
	}
}

func TestHistoryIsAChain(t *testing.T) {
	var l log
	for n := range 200 {
		d, _, err := release.PlanPromote(l.head(), "tiny", []string{"dev", "nightly", "prod"}[n%3], candidate(n%15+1), release.Moved{By: "x", At: now.Add(time.Duration(n) * time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		l.append(t, d)
	}
	steps, err := release.Steps(l.history, "prod")
	if err != nil || len(steps) != 66 {
		t.Fatalf("%d steps of prod, %v", len(steps), err)
	}
	for hour, want := range map[int]uint64{2: 3, 3: 3, 4: 3, 5: 6, 100: 99, 199: 198, 5000: 198} {
		if s, ok := release.At(steps, "prod", now.Add(time.Duration(hour)*time.Hour)); !ok || s.Generation != want {
			t.Errorf("at hour %d prod served generation %d, %v, want %d", hour, s.Generation, ok, want)
		}
	}
	if s, ok := release.At(steps, "prod", now); ok {
		t.Errorf("before it served anything: generation %d", s.Generation)
	}
	for name, forge := range map[string]func(log) uint64{
		"one is changed":      func(l log) uint64 { l[99].Content = append([]byte(nil), append(l[99].Content, ' ')...); return 101 },
		"two are swapped":     func(l log) uint64 { l[49], l[50] = l[50], l[49]; return 52 },
		"one is left out":     func(l log) uint64 { copy(l[120:], l[121:]); return 122 },
		"the oldest are gone": func(l log) uint64 { copy(l, l[20:]); clear(l[180:]); return 21 },
	} {
		forged := append(log(nil), l...)
		generation := forge(forged)
		if name == "one is left out" {
			forged = forged[:199]
		}
		if name == "the oldest are gone" {
			forged = forged[:180]
		}
		_, err := release.Steps(forged.history, "")
		if !errors.Is(err, fault.Forged) || !strings.Contains(err.Error(), fmt.Sprintf("generation %d:", generation)) {
			t.Errorf("%s: %v, want generation %d to be named", name, err, generation)
		}
	}
}
