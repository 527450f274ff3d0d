package evidence_test

import (
	"strings"
	"testing"

	"github.com/containai/containai/mage/evidence"
)

func TestF1TextIsShownWithoutWhatLooksSecret(t *testing.T) {
	key, token := "AKIA"+"2OGYBAH6STMMNXWQ", "ghp_"+strings.Repeat("a1B2", 9)
	for text, want := range map[string]string{
		"1/2 RUN make":                               "1/2 RUN make",
		"RUN echo " + key + " >/key":                 "RUN echo (not shown) >/key",
		"RUN curl -u x:" + token + "==, " + key:      "RUN curl -u x:(not shown) (not shown)",
		"[app 2/3] RUN get https://me:pass@host/x y": "[app 2/3] RUN get https(not shown) y",
	} {
		if got := evidence.HideSecrets(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
