package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestLocalClaimsNameTheLocalIssuerAndBuilder(t *testing.T) {
	t.Parallel()
	c, err := localClaims([]byte(widget))
	if err != nil {
		t.Fatal(err)
	}
	if c["iss"] != localIssuer || c["builder"] != localBuilder || c["runner_environment"] != "local" {
		t.Errorf("claims %v", c)
	}
	again, _ := localClaims([]byte(widget))
	if c["run"] == again["run"] {
		t.Error("two runs have one name")
	}
}

func TestLocalClaimsRefuse(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"a relative repository":        {"https://github.com/acme/widget", "acme/widget"},
		"credentials in the URL":       {"https://github.com", "https://user:secret@github.com"},
		"a short commit":               {"0123456789abcdef0123456789abcdef01234567", "0123456"},
		"an empty ref":                 {"refs/heads/main", ""},
		"a workflow with an @":         {"containai.yaml", "containai.yaml@refs/heads/other"},
		"an issuer of its own":         {`"ref":`, `"iss":"https://token.actions.githubusercontent.com","ref":`},
		"a builder of its own":         {`"ref":`, `"builder":"https://github.com/acme","ref":`},
		"something after the document": {`}`, `}{}`},
		"no document":                  {widget, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := strings.Replace(widget, change[0], change[1], 1)
			if c, err := localClaims([]byte(line)); err == nil {
				t.Errorf("localClaims(%s) = %v, want an error", line, c)
			}
		})
	}
}

func TestRehearsedClaimsRefuse(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"an unknown issuer":  `{"iss":"https://accounts.example.com","sub":"x"}`,
		"no subject":         `{"iss":"` + gitHubIssuer + `"}`,
		"an own audience":    `{"iss":"` + gitHubIssuer + `","sub":"x","aud":"y"}`,
		"an own expiry time": `{"iss":"` + gitHubIssuer + `","sub":"x","exp":1}`,
		"a list":             `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c, err := rehearsedClaims([]byte(content)); err == nil {
				t.Errorf("rehearsedClaims(%s) = %v, want an error", content, c)
			}
		})
	}
}

func FuzzLocalClaims(f *testing.F) {
	f.Add([]byte(widget))
	f.Add([]byte(`{"repository":"file:///x","ref":"HEAD"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		c, err := localClaims(line)
		if err != nil {
			return
		}
		if c["iss"] != localIssuer || c["builder"] != localBuilder {
			t.Errorf("%q made claims %v", line, c)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
	})
}
