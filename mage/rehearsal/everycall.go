package rehearsal

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// EveryCall runs an operation undisturbed, and then once more for every call it made and every
// fault, disturbing that call; each run must end in the undisturbed run's state.
//
// The function run builds a fresh world, whose handlers it wraps in inject, operates on it until the
// operation succeeds (a client that retries, or a user who runs the command again), and returns the
// state it left: [GitHub.Snapshot], for instance. The undisturbed run is given t itself, the others a
// subtest each, "call 7: PUT /v2/…, answered 503". A call is found again by its method, its path
// without upload ids, and its number among those that share both, so that operations may send their
// calls concurrently and in any order. A call that does not come again fails the test: a fault that
// never happened proves nothing. Reads alone can be Stale; other calls are not tried with it.
func EveryCall(t *testing.T, faults []Fault, run func(t *testing.T, inject func(http.Handler) http.Handler) []byte) {
	t.Helper()
	s := mustScript(t, nil)
	want := run(t, s.inject) // no subtest: a -run that picks one call needs it as well
	calls := s.seen()
	switch {
	case t.Failed():
		t.Fatal("the undisturbed run fails")
	case len(calls) == 0 || len(faults) == 0 || len(want) == 0:
		t.Fatalf("%d calls, %d faults and %d bytes of state: nothing to disturb or to compare", len(calls), len(faults), len(want))
	}
	for _, f := range faults {
		counts := map[string]int{}
		for i, c := range calls {
			rule := Rule{Method: c.Method, Path: pathPattern(c.Path), Fault: f}
			counts[rule.Method+rule.Path]++
			rule.Call = counts[rule.Method+rule.Path]
			if f.Stale && !isRead(c.Method) {
				continue
			}
			t.Run(fmt.Sprintf("call %d: %s %s, %s", i+1, c.Method, c.Path, f), func(t *testing.T) { disturb(t, rule, want, run) })
		}
	}
}

// disturb runs the operation under one rule and compares its end.
func disturb(t *testing.T, rule Rule, want []byte, run func(*testing.T, func(http.Handler) http.Handler) []byte) {
	t.Helper()
	s := mustScript(t, []Rule{rule})
	got := run(t, s.inject)
	if s.fired()[0] == 0 {
		t.Fatalf("call %d of %s %s never came: the runs differ, and nothing was disturbed", rule.Call, rule.Method, rule.Path)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the disturbed run ends in another state:\n%s", firstDifference(string(got), string(want)))
	}
}

func mustScript(t *testing.T, rules []Rule) *script {
	t.Helper()
	s, err := newScript(rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inject lets all handlers of one run play the same script.
func (s *script) inject(next http.Handler) http.Handler { return &Injector{next: next, script: s} }

var uploadID = lazyregexp.New(`/blobs/uploads/[^/]+$`)

// pathPattern matches a path in any run: an upload's id is chosen by the registry.
func pathPattern(path string) string {
	if at := uploadID.FindStringIndex(path); at != nil {
		return "^" + regexp.QuoteMeta(path[:at[0]]) + uploadID.String()
	}
	return "^" + regexp.QuoteMeta(path) + "$"
}

// firstDifference shows where two texts part.
func firstDifference(got, want string) string {
	gots, wants := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(gots), len(wants)) {
		g, w := lineOf(gots, i), lineOf(wants, i)
		if g != w {
			return fmt.Sprintf("line %d is  %s\nwant line %s", i+1, g, w)
		}
	}
	return "no line differs"
}

func lineOf(lines []string, i int) string {
	if i >= len(lines) {
		return "(missing)"
	}
	return fmt.Sprintf("%q", lines[i])
}
