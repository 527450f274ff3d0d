package term

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Secrets are values that no output shows, however they are written down. They are learned while a run
// goes on: a token is known when somebody has it. The zero value, and nil, know none. It is safe for
// concurrent use.
type Secrets struct {
	mu       sync.Mutex
	known    map[string]bool
	forms    []string
	replacer *strings.Replacer // of all forms; nil when one was learned since
}

// The shortest values that count, in bytes: shorter ones stand in innocent text by chance.
const (
	minSecret = 8
	minLine   = 4 // of a secret that has several
)

// hidden stands where a secret was.
const hidden = "***"

// Learn adds values; those that are too short to be told from other text are left out.
func (s *Secrets) Learn(values ...string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, value := range values {
		if len(strings.TrimSpace(value)) < minSecret || s.known[value] {
			continue
		}
		if s.known == nil {
			s.known = map[string]bool{}
		}
		s.known[value] = true
		s.forms, s.replacer = append(s.forms, Forms(value)...), nil
	}
}

// Hide returns a text without the secrets. It is for text as it is: what Escape has changed is no form
// of a secret any more.
func (s *Secrets) Hide(text string) string {
	if s == nil {
		return text
	}
	s.mu.Lock()
	if s.replacer == nil {
		// At one place the longest form wins: nothing of it is left behind a shorter one.
		slices.SortFunc(s.forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
		s.forms = slices.Compact(s.forms)
		var pairs []string
		for _, form := range s.forms {
			pairs = append(pairs, form, hidden)
		}
		s.replacer = strings.NewReplacer(pairs...)
	}
	replacer := s.replacer
	s.mu.Unlock()
	return replacer.Replace(text)
}

// Forms are the ways a secret is written down in headers, files, URLs and JSON, each line of it also by
// itself, as logs are read. In base64 a secret is found behind anything that stands before it, as in
// "user:password".
func Forms(secret string) []string {
	var all []string
	for _, s := range append([]string{secret}, strings.FieldsFunc(secret, func(r rune) bool { return r == '\n' || r == '\r' })...) {
		if strings.TrimSpace(s) == "" || s != secret && (len(s) < minLine || strings.HasPrefix(s, "-----")) {
			continue // a line that begins or ends PEM is nobody's secret
		}
		all = append(all, s, url.QueryEscape(s), url.PathEscape(s), hex.EncodeToString([]byte(s)), inJSON(s, true), inJSON(s, false))
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			all = append(all, e.EncodeToString([]byte(s)))
		}
		if len(s) < minSecret {
			continue
		}
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			for before := range 3 {
				all = append(all, within(e, s, before))
			}
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(form string) bool { return strings.TrimSpace(form) == "" })
}

// within is what base64 makes of a secret behind so many bytes, without the characters that it shares
// with its neighbours.
func within(e *base64.Encoding, secret string, before int) string {
	text := e.EncodeToString(append(make([]byte, before), secret...))
	return text[(8*before+5)/6 : 8*(before+len(secret))/6]
}

// inJSON is a secret inside of a JSON string.
func inJSON(s string, escapeHTML bool) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(escapeHTML)
	if e.Encode(s) != nil {
		return ""
	}
	return strings.Trim(strings.TrimSpace(b.String()), `"`)
}

// Hiding hands on events without the secrets.
func Hiding(s *Secrets, to Sink) Sink { return hiding{s, to} }

type hiding struct {
	secrets *Secrets
	to      Sink
}

func (h hiding) Emit(e Event) {
	e.Subject, e.Detail = h.secrets.Hide(e.Subject), h.secrets.Hide(e.Detail)
	h.to.Emit(e)
}
