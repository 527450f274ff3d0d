package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/containai/containai/mage/fault"
)

func TestWrapKeepsTheKindThatIsNearestToTheCause(t *testing.T) {
	for name, test := range map[string]struct {
		cause error
		want  fault.Kind
	}{
		"a cause without a kind takes the given one": {io.EOF, fault.Unavailable},
		"a classified cause keeps its own":           {fault.New(fault.Forged, "reading", "a", "wrong"), fault.Forged},
		"so it does behind other wrappers":           {fmt.Errorf("while: %w", fault.New(fault.Forged, "reading", "a", "wrong")), fault.Forged},
		"and behind a join":                          {errors.Join(io.EOF, fault.New(fault.Conflict, "moving", "a", "newer")), fault.Conflict},
		"a cancelled context is Interrupted":         {fmt.Errorf("get: %w", context.Canceled), fault.Interrupted},
		"a classified cancellation keeps its kind":   {fault.Wrap(context.Canceled, fault.Invalid, "reading", "a"), fault.Interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			err := fault.Wrap(test.cause, fault.Unavailable, "pulling", "b")
			if kind, ok := fault.KindOf(err); kind != test.want || !ok {
				t.Errorf("KindOf = %v, %v, want %v", kind, ok, test.want)
			}
			if !errors.Is(err, test.want) || !errors.Is(err, test.cause) {
				t.Errorf("errors.Is does not find the kind %v and the cause in %v", test.want, err)
			}
			if got := outermost(t, err).ExitStatus(); got != int(test.want) {
				t.Errorf("ExitStatus = %d, want %d", got, int(test.want))
			}
		})
	}
}

func TestWrapOfNothingIsNothing(t *testing.T) {
	if err := fault.Wrap(nil, fault.Forged, "reading", "a"); err != nil {
		t.Errorf("Wrap(nil) = %v", err)
	}
}

// Mage asks the outermost error alone, without unwrapping.
func TestExitStatusIsOnTheOutermostError(t *testing.T) {
	inner := fault.New(fault.Immutable, "tagging", "sha-1", "it exists")
	err := fault.Wrap(fault.Wrap(inner, fault.Partial, "publishing", "base"), fault.Unavailable, "releasing", "dev")
	if got := outermost(t, err).ExitStatus(); got != 41 {
		t.Errorf("ExitStatus = %d, want 41", got)
	}
}

func outermost(t *testing.T, err error) interface{ ExitStatus() int } {
	t.Helper()
	status, ok := err.(interface{ ExitStatus() int })
	if !ok {
		t.Fatalf("%T has no ExitStatus", err)
	}
	return status
}

func TestHintOfIsNearestToTheCause(t *testing.T) {
	deep := fault.New(fault.Environment, "starting", "runc", "missing").WithHint("install %s", "runc")
	plain := fault.Wrap(deep, fault.BuildFailed, "building", "base")
	outer := (&fault.Error{Op: "releasing", Kind: fault.Environment, Err: fmt.Errorf("now: %w", plain)}).WithHint("run it again")
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"the deepest of two":     {outer, "install runc"},
		"through others' errors": {fmt.Errorf("a: %w", outer), "install runc"},
		"the only one":           {plain, "install runc"},
		"none":                   {fault.New(fault.Invalid, "parsing", "x", "bad"), ""},
		"not ours":               {fs.ErrNotExist, ""},
		"nothing":                {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fault.HintOf(test.err); got != test.want {
				t.Errorf("HintOf = %q, want %q", got, test.want)
			}
		})
	}
}

func TestKindOfSaysWhenThereIsNone(t *testing.T) {
	if kind, ok := fault.KindOf(io.EOF); ok {
		t.Errorf("KindOf(EOF) = %v, want none", kind)
	}
	if kind, ok := fault.KindOf(context.Canceled); kind != fault.Interrupted || !ok {
		t.Errorf("KindOf(Canceled) = %v, %v, want Interrupted", kind, ok)
	}
}

func TestKindsAreDistinctNamedAndOutsideOfMagesOwn(t *testing.T) {
	names := map[string]bool{}
	codes := []int{}
	for _, m := range fault.Kinds() {
		if m.Name == "" || m.Advice == "" || names[m.Name] || m.Kind.Error() != m.Name {
			t.Errorf("the row %+v has no name of its own or no advice", m)
		}
		names[m.Name] = true
		codes = append(codes, int(m.Kind))
	}
	if !slices.IsSorted(codes) || len(slices.Compact(codes)) != len(names) {
		t.Errorf("codes %v are not ascending and distinct", codes)
	}
	for _, code := range codes {
		if code <= 2 || code > 255 {
			t.Errorf("%d is no exit status of ours", code)
		}
	}
	if got := fault.Kind(99).Error(); got != "Kind(99)" {
		t.Errorf("an unknown kind prints as %q", got)
	}
}

func TestErrorIsAlwaysOfItsKind(t *testing.T) {
	for name, err := range map[string]error{
		"with a cause":    fault.New(fault.Refused, "checking", "a", "no"),
		"without a cause": &fault.Error{Op: "checking", Kind: fault.Refused},
		"the kind itself": fault.Refused,
	} {
		if !errors.Is(err, fault.Refused) || errors.Is(err, fault.Forged) {
			t.Errorf("%s: %v is not just Refused", name, err)
		}
	}
}

func Example() {
	err := fault.Wrap(io.ErrUnexpectedEOF, fault.Unavailable, "pulling", "containai-base")
	err = fault.Wrap(err, fault.Partial, "publishing", "family")
	fmt.Println(err)
	fmt.Println(errors.Is(err, fault.Unavailable), errors.Is(err, fault.Partial))
	// Output:
	// publishing family: pulling containai-base: unexpected EOF
	// true false
}

func ExampleError_WithHint() {
	err := fault.New(fault.Environment, "looking for", "runc", "it is not installed").WithHint("apt-get install %s", "runc")
	fmt.Println(err)
	fmt.Println(fault.HintOf(err))
	fmt.Println(err.ExitStatus())
	// Output:
	// looking for runc: it is not installed
	// apt-get install runc
	// 11
}
