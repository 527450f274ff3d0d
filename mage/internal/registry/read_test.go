package registry

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

func TestWrongContentIsNeverGivenWhole(t *testing.T) {
	right := strings.Repeat("right", 20_000)
	n := graph.NewNode("a/b", []byte(right))
	for name, test := range map[string]struct {
		content string
		wrong   bool
	}{
		"right":   {right, false},
		"longer":  {right + "x", true},
		"shorter": {right[1:], true},
		"other":   {right[:len(right)-1] + "x", true},
		"none":    {"", true},
	} {
		for how, reader := range map[string]func(io.Reader) io.Reader{
			"as it comes": func(r io.Reader) io.Reader { return r }, "by the byte": iotest.OneByteReader, "with its end": iotest.DataErrReader,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				var got bytes.Buffer
				_, err := io.Copy(&got, verified(reader(strings.NewReader(test.content)), n))
				switch {
				case !test.wrong && (err != nil || got.String() != right):
					t.Errorf("%d of %d bytes, %v", got.Len(), len(right), err)
				case test.wrong && (!errors.Is(err, fault.Forged) || int64(got.Len()) >= n.Size):
					t.Errorf("%d of %d bytes, %v", got.Len(), n.Size, err)
				}
			})
		}
	}
	if got, err := io.ReadAll(verified(strings.NewReader(""), graph.NewNode("a/b", nil))); len(got) != 0 || err != nil {
		t.Errorf("nothing reads as %q, %v", got, err)
	}
}
