package verify_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/verify"
)

func memory(t *testing.T) verify.Memory {
	t.Helper()
	return verify.Memory{Path: filepath.Join(t.TempDir(), "seen.json")}
}

func generation(n uint64) verify.Seen {
	return verify.Seen{Generation: n, Digest: digest.FromString(fmt.Sprint(n))}
}

func TestMemoryKeepsWhatWasSeen(t *testing.T) {
	m := memory(t)
	if s, err := m.Recall("a"); s != (verify.Seen{}) || err != nil {
		t.Errorf("Recall of nothing = %v, %v", s, err)
	}
	if err := errors.Join(m.Remember("a", verify.Seen{}, generation(3)), m.Remember("b", verify.Seen{}, generation(1))); err != nil {
		t.Fatal(err)
	}
	if got, err := m.Recall("a"); got != generation(3) || err != nil {
		t.Errorf("Recall = %v, %v", got, err)
	}
	broken := verify.Memory{Path: filepath.Join(t.TempDir(), "none", "seen.json")}
	if err := broken.Remember("a", verify.Seen{}, generation(3)); !errors.Is(err, fault.Environment) {
		t.Errorf("Remember without a directory = %v, want Environment", err)
	}
}

// Row D7: two looks at once end with the newer document, whichever of them ends last.
func TestD7MemoryDoesNotGoBackUnlessItIsMeant(t *testing.T) {
	other := verify.Seen{Generation: 7, Digest: digest.FromString("another 7")}
	for name, c := range map[string]struct {
		before, accepted, want verify.Seen
		kind                   fault.Kind // 0: no error
	}{
		"a newer one was noted meanwhile":        {generation(5), generation(6), generation(7), 0},
		"the same one was noted meanwhile":       {generation(5), generation(7), generation(7), 0},
		"an older one was noted meanwhile":       {generation(5), generation(8), generation(8), 0},
		"another of the generation, meanwhile":   {generation(5), other, generation(7), fault.Refused},
		"back, by who saw the newer one":         {generation(7), generation(4), generation(4), 0},
		"another of the generation, by who knew": {generation(7), other, other, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory(t)
			if err := errors.Join(m.Remember("a", verify.Seen{}, generation(5)), m.Remember("a", generation(5), generation(7))); err != nil {
				t.Fatal(err)
			}
			err := m.Remember("a", c.before, c.accepted)
			if kind, _ := fault.KindOf(err); kind != c.kind || err != nil && c.kind == 0 {
				t.Errorf("Remember = %v, want kind %v", err, c.kind)
			}
			if got, err := m.Recall("a"); got != c.want || err != nil {
				t.Errorf("Recall = %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func TestFiftyLooksAtOnceAreAllRemembered(t *testing.T) {
	m := memory(t)
	var group errgroup.Group
	for i := range 50 {
		group.Go(func() error { return m.Remember(fmt.Sprint(i), verify.Seen{}, generation(uint64(i+1))) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if got, err := m.Recall(fmt.Sprint(i)); got != generation(uint64(i+1)) || err != nil {
			t.Errorf("Recall(%d) = %v, %v", i, got, err)
		}
	}
}

// A memory that decodes to nothing is not an empty one: an old document would pass.
func TestMemoryIsNotForgottenSilently(t *testing.T) {
	for _, content := range []string{"", "null", "[]", "{", `{"a":null}`, `{"a":{}}`, `{"b":{"generation":0}}`} {
		m := memory(t)
		if err := os.WriteFile(m.Path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := m.Recall("a"); !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
			t.Errorf("Recall from %q = %v, %v, want Environment and a hint", content, s, err)
		}
		if err := m.Remember("a", verify.Seen{}, generation(1)); !errors.Is(err, fault.Environment) {
			t.Errorf("Remember in %q = %v, want Environment", content, err)
		}
	}
}
