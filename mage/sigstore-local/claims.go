package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
)

// The names of the local identity. The top-level domain .internal is reserved for private use: no
// one can own these names in public. They are the same on every machine; what tells two machines
// apart is the trusted root.
const (
	localIssuer  = "https://containai.internal/oidc"
	localBuilder = "https://containai.internal/builders/local/v1"
	gitHubIssuer = "https://token.actions.githubusercontent.com"
)

// claims are the part of a token that says who: all but audience and times.
type claims map[string]any

// source is what the parent says on the first line of standard input.
type source struct {
	Repository string `json:"repository"`      // URL of the source repository
	Ref        string `json:"ref"`             // refs/heads/main
	Commit     string `json:"commit"`          // 40 hex digits
	Workflow   string `json:"workflow"`        // path in the repository of what defined the build
	Dirty      string `json:"dirty,omitempty"` // 8 hex digits when the work tree differed from the commit
}

var (
	commitGrammar = regexp.MustCompile(`^[0-9a-f]{40}$`)
	dirtyGrammar  = regexp.MustCompile(`^([0-9a-f]{8})?$`)
)

// localClaims makes the honest claims: this source, built by the local builder, in a run of its own.
func localClaims(line []byte) (claims, error) {
	var s source
	if err := decodeStrict(line, &s); err != nil {
		return nil, fmt.Errorf("reading what is being built: %w", err)
	}
	repository, err := url.Parse(s.Repository)
	switch {
	case err != nil || !repository.IsAbs() || repository.User != nil:
		return nil, fmt.Errorf("the repository is an absolute URL without credentials, not %q", s.Repository)
	case s.Ref == "" || s.Workflow == "" || strings.ContainsAny(s.Ref+s.Workflow, " \t\n@"):
		return nil, fmt.Errorf("ref %q and workflow %q must be given, without spaces and @", s.Ref, s.Workflow)
	case !commitGrammar.MatchString(s.Commit) || !dirtyGrammar.MatchString(s.Dirty):
		return nil, fmt.Errorf("a commit has 40 hex digits and a difference 8, not %q and %q", s.Commit, s.Dirty)
	}
	return claims{
		"iss":                localIssuer,
		"sub":                s.Repository + "@" + s.Ref,
		"builder":            localBuilder,
		"repository":         s.Repository,
		"ref":                s.Ref,
		"sha":                s.Commit,
		"dirty":              s.Dirty,
		"workflow":           s.Workflow,
		"run":                "urn:uuid:" + newUUID(),
		"runner_environment": "local",
		"event_name":         "local",
	}, nil
}

// rehearsedClaims reads claims of another issuer's shape, as tests of GitHub's identities need them.
func rehearsedClaims(content []byte) (claims, error) {
	var c claims
	if err := decodeStrict(content, &c); err != nil {
		return nil, fmt.Errorf("reading claims: %w", err)
	}
	for _, name := range []string{"aud", "exp", "iat", "nbf"} {
		if _, taken := c[name]; taken {
			return nil, fmt.Errorf("the claim %q belongs to each token", name)
		}
	}
	if issuer := c["iss"]; issuer != localIssuer && issuer != gitHubIssuer {
		return nil, fmt.Errorf("the issuer %v is neither %s nor %s", issuer, localIssuer, gitHubIssuer)
	}
	if sub, _ := c["sub"].(string); sub == "" {
		return nil, errors.New("the claim sub is missing")
	}
	return c, nil
}

func decodeStrict(content []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more follows the document")
	}
	return nil
}

// newUUID returns a random UUID, RFC 9562 section 5.4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, crypto/rand
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
