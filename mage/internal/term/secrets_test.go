package term

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// F1: whatever a server or a program makes of a secret that it was shown, the text does not show it.
func TestF1ASecretIsHiddenInEveryForm(t *testing.T) {
	const secret = `ghs_a/b+c%d"e<f é`
	quoted, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	var s Secrets
	s.Learn(secret, "short", "", "  \n        ")
	for name, form := range map[string]string{
		"plain": secret, "for a query": url.QueryEscape(secret), "for a path": url.PathEscape(secret), "in JSON": string(quoted[1 : len(quoted)-1]),
		"in JSON, as browsers read it": `ghs_a/b+c%d\"e<f é`, "in hexadecimal": fmt.Sprintf("%x", secret),
		"in base64": base64.StdEncoding.EncodeToString([]byte(secret)), "in base64 for URLs": base64.RawURLEncoding.EncodeToString([]byte(secret)),
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.Hide("the server says: " + form + "."); !strings.HasPrefix(got, "the server says: ***") || strings.Contains(got, form[3:]) {
				t.Errorf("Hide = %q", got)
			}
		})
	}
	for _, user := range []string{"", "x", "me", "you", "octocat", "x-access-token"} {
		basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret + "\n"))
		got := s.Hide("Basic " + basic)
		for i := 0; i+12 <= len(basic); i++ {
			if i >= len(user)*4/3+4 && strings.Contains(got, basic[i:i+12]) {
				t.Errorf("%q shows %q of the secret", got, basic[i:i+12])
			}
		}
	}
	if got := s.Hide("a short innocent text"); got != "a short innocent text" {
		t.Errorf("Hide = %q", got)
	}
}

func TestF1EachLineOfAKeyIsASecret(t *testing.T) {
	const key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\nAwEHBG0wawIBAQQg7x\n-----END PRIVATE KEY-----\n"
	s := &Secrets{}
	s.Learn(key)
	for text, want := range map[string]string{
		"it read " + key: "it read ***", "line 2: AwEHBG0wawIBAQQg7x": "line 2: ***", "-----BEGIN PRIVATE KEY----- is missing": "-----BEGIN PRIVATE KEY----- is missing",
	} {
		if got := s.Hide(text); got != want {
			t.Errorf("Hide(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestSecretsAreLearnedWhileARunGoesOn(t *testing.T) {
	var none *Secrets
	none.Learn("longer than eight")
	if got := none.Hide("longer than eight"); got != "longer than eight" {
		t.Errorf("nil hides %q", got)
	}
	var s Secrets
	var got []Event
	sink := Hiding(&s, sinkFunc(func(e Event) { got = append(got, e) }))
	sink.Emit(Event{Subject: "a token", Detail: "first-token"})
	for _, secret := range []string{"first-token", "first-token-and-more", "first-token\nand a line", "another-token"} {
		s.Learn(secret)
		sink.Emit(Event{Subject: "a token", Detail: secret})
	}
	sink.Emit(Event{Subject: "first-token", Detail: "first-token-and-more first-token"})
	if len(got) != 6 || got[0].Detail != "first-token" || got[3].Subject != "a token" || got[5].Subject != "***" || got[5].Detail != "*** ***" {
		t.Errorf("the events are %+v", got)
	}
}

type sinkFunc func(Event)

func (f sinkFunc) Emit(e Event) { f(e) }
