package tool_test

import (
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// A shell reads what was quoted as one word, whatever is in it.
func TestAShellReadsAQuotedTextAsItIs(t *testing.T) {
	for _, text := range []string{"", "plain", "two words", `it's "so"`, "$(id) `id` $HOME", "a;b|c&d", "-flag", "*?[a]", "line\nline", `back\slash'`} {
		out, err := tool.Output(t.Context(), tool.Command{Path: "sh", Args: []string{"-c", "printf %s x" + tool.Quote(text) + "y"}}, fault.Environment)
		if err != nil || string(out) != "x"+text+"y" {
			t.Errorf("%q is read as %q, %v", text, out, err)
		}
	}
}
