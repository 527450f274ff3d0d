package term

import (
	"fmt"

	"github.com/containai/containai/mage/fault"
)

// Explain is an error as a person reads it, with its exit status and the next step, and that status. No secret is in it,
// and no runner obeys a line of it.
func Explain(err error, secrets *Secrets) (text string, status int) {
	text, status = EscapeLines(secrets.Hide(err.Error())), 1
	if kind, ok := fault.KindOf(err); ok {
		status = int(kind)
		text += fmt.Sprintf("\n(exit %d, %s)", status, kind)
	}
	if hint := fault.HintOf(err); hint != "" {
		text += "\n→ " + EscapeLines(secrets.Hide(hint))
	}
	return text, status
}
