package verify

import "testing"

// What a verifier accepts and refuses in a whole registry is tested in mage/tamper_test.go,
// against a real release that somebody changed.

func TestD5SBOMsAreComparedByWhatTheySay(t *testing.T) {
	const attested = `{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890}`
	for name, tt := range map[string]struct {
		attached string
		want     bool
	}{
		"the same bytes":               {attested, true},
		"other white space":            {"{\n \"bomFormat\": \"CycloneDX\", \"components\": [ {\"name\": \"a<b\", \"version\": \"1.0\"} ], \"n\": 12345678901234567890 }", true},
		"the same text, escaped":       {`{"bomFormat":"CycloneDX","components":[{"name":"a\u003cb","version":"1.0"}],"n":12345678901234567890}`, true},
		"another version":              {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.1"}],"n":12345678901234567890}`, false},
		"a component less":             {`{"bomFormat":"CycloneDX","components":[],"n":12345678901234567890}`, false},
		"a number that a float blurs":  {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567891}`, false},
		"nothing":                      {"", false},
		"something that is no JSON":    {"{", false},
		"a key that comes to the SBOM": {`{"bomFormat":"CycloneDX","components":[{"name":"a<b","version":"1.0"}],"n":12345678901234567890,"x":1}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sameJSON([]byte(tt.attached), []byte(attested)); got != tt.want {
				t.Errorf("sameJSON() = %v, want %v", got, tt.want)
			}
		})
	}
}
