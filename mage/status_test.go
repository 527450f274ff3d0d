package mage

import "testing"

func TestStatusSaysHowFarAReleaseCame(t *testing.T) {
	for want, st := range map[string]status{
		"not built":      {},
		"built":          {Built: true},
		"attest pending": {Built: true, Record: "sha256:1", Missing: 1},
		"attested":       {Record: "sha256:1"},
		"served":         {Record: "sha256:1", Serving: []string{"dev"}},
	} {
		if got := st.reached(); got != want {
			t.Errorf("%+v reached %q, want %q", st, got, want)
		}
	}
}
