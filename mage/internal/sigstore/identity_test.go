package sigstore

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"
)

// unsigned makes a token of claims; only Fulcio checks the signature.
func unsigned(t *testing.T, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

func TestATokenThatSaysTooLittleGivesNoIdentity(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("testdata/github_claims.json")
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(content, &claims); err != nil {
		t.Fatal(err)
	}
	claims["aud"] = audience // the issuer's to add, and no part of who somebody is
	if _, err := identityOfToken(unsigned(t, claims)); err != nil {
		t.Fatalf("the whole token: %v", err)
	}
	for _, name := range []string{"iss", "aud", "repository", "ref", "sha", "job_workflow_ref", "workflow_ref", "run_id", "run_attempt"} {
		t.Run("without "+name, func(t *testing.T) {
			t.Parallel()
			less := maps.Clone(claims)
			delete(less, name)
			if id, err := identityOfToken(unsigned(t, less)); err == nil {
				t.Errorf("identityOfToken = %+v, want an error", id)
			}
		})
	}
	elsewhere := maps.Clone(claims)
	elsewhere["aud"] = "https://github.com/acme"
	for name, token := range map[string]string{
		"F10 a token for somebody else": unsigned(t, elsewhere),
		"an empty token":                "",
		"two parts":                     "a.b",
		"no base64":                     "a.?.c",
		"no JSON":                       "a.e30x.c",
		"a token too large":             "a." + strings.Repeat("e", maxToken) + ".c",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if id, err := identityOfToken(token); err == nil {
				t.Errorf("identityOfToken = %+v, want an error", id)
			}
		})
	}
}

func FuzzIdentityOfToken(f *testing.F) {
	f.Add("e30.eyJpc3MiOiJodHRwczovL2NvbnRhaW5haS5pbnRlcm5hbC9vaWRjIn0.c2ln")
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		id, err := identityOfToken(token)
		if err == nil && (id.BuilderID == "" || id.Repository == "" || id.Commit == "") {
			t.Errorf("%q gives %+v", token, id)
		}
	})
}
