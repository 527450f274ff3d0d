package attestations

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// Options are the optional parts of an archive.
type Options struct {
	Pause    time.Duration // between two bundles; zero means 750 ms, as GitHub takes 80 a minute
	Patience time.Duration // longest wait for a limit that passes; zero means 160 pauses
}

// Archive is a client that may store. It stores one bundle at a time.
type Archive struct {
	*Client
	options Options
	mu      sync.Mutex
}

// NewArchive returns a client for a repository that asks and stores with a token; a GITHUB_TOKEN needs
// `attestations: write` to store. It sends nothing.
func NewArchive(api, repository, token string, o Options) (*Archive, error) {
	c, err := New(api, repository)
	if err != nil {
		return nil, err
	}
	if o.Pause <= 0 {
		o.Pause = 750 * time.Millisecond
	}
	if o.Patience <= 0 {
		o.Patience = 160 * o.Pause
	}
	c.token = token
	return &Archive{Client: c, options: o}, nil
}

// The limits of storing.
const (
	storeAttempts = 5
	maxRefusal    = 64 << 10 // bytes of an answer to a bundle
)

// Lacking returns those bundles about a subject that the repository does not keep.
func (a *Archive) Lacking(ctx context.Context, subject digest.Digest, bundles [][]byte) ([][]byte, error) {
	kept, err := a.Bundles(ctx, subject)
	if err != nil {
		return nil, err
	}
	known := map[[sha256.Size]byte]bool{}
	for _, b := range kept {
		known[signedPart(b)] = true
	}
	return slices.DeleteFunc(slices.Clone(bundles), func(b []byte) bool { return known[signedPart(b)] }), nil
}

// signedPart identifies a bundle by what was signed and the signatures: GitHub may write its JSON anew.
func signedPart(bundle []byte) [sha256.Size]byte {
	var b struct {
		Envelope struct {
			Payload    string `json:"payload"`
			Signatures []struct {
				Sig string `json:"sig"`
			} `json:"signatures"`
		} `json:"dsseEnvelope"`
	}
	if json.Unmarshal(bundle, &b) != nil || b.Envelope.Payload == "" {
		return sha256.Sum256(bundle)
	}
	parts, _ := json.Marshal(b.Envelope) // texts alone: it cannot fail
	return sha256.Sum256(parts)
}

// Store stores those bundles about a subject that the repository does not keep, and returns how many.
// It looks before each attempt: an answer that was lost may have been a yes, and nothing is stored twice.
func (a *Archive) Store(ctx context.Context, subject digest.Digest, bundles [][]byte) (stored int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for attempt := range storeAttempts {
		var wait time.Duration
		var n int
		if n, wait, err = a.attempt(ctx, subject, bundles); err == nil {
			return stored + n, nil
		}
		stored += n
		kind, _ := fault.KindOf(err)
		wait = max(wait, a.options.Pause<<attempt)
		if kind != fault.Unavailable || wait > a.options.Patience || attempt == storeAttempts-1 {
			break
		}
		if err := sleep(ctx, wait); err != nil {
			return stored, fault.Wrap(err, fault.Interrupted, "storing attestations of", subject.String())
		}
	}
	return stored, fault.Wrap(err, fault.Unavailable, "storing attestations of", subject.String())
}

// attempt stores what is lacking, up to the first failure; wait is what GitHub asks for before the next.
func (a *Archive) attempt(ctx context.Context, subject digest.Digest, bundles [][]byte) (stored int, wait time.Duration, err error) {
	lacking, err := a.Lacking(ctx, subject, bundles)
	if err != nil {
		return 0, 0, err
	}
	for _, b := range lacking {
		if err := sleep(ctx, a.options.Pause); err != nil {
			return stored, 0, fault.Wrap(err, fault.Interrupted, "storing attestations of", subject.String())
		}
		if wait, err = a.post(ctx, b); err != nil {
			return stored, wait, err
		}
		stored++
	}
	return stored, 0, nil
}

// post sends one bundle (https://docs.github.com/rest/repos/attestations#create-an-attestation).
func (a *Archive) post(ctx context.Context, bundle []byte) (wait time.Duration, err error) {
	body, err := json.Marshal(map[string]json.RawMessage{"bundle": bundle})
	if err != nil {
		return 0, fault.Wrap(err, fault.Invalid, "storing", "bundle")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.list, "/"), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	a.introduce(req)
	once := *a.http // a bundle goes where it was sent: after a redirect it would be asked for, not stored
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := once.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return 0, fault.Wrap(ctx.Err(), fault.Interrupted, "storing", "bundle")
		}
		return 0, fault.Wrap(withoutURL(err), fault.Unavailable, "storing", "bundle")
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		return 0, nil
	}
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return 0, fault.Wrap(err, fault.Unavailable, "storing", "bundle")
	}
	err = refusal(resp, content)
	if errors.Is(err, fault.Unavailable) && resp.StatusCode < http.StatusInternalServerError {
		wait = a.asked(resp.Header)
	}
	return wait, err
}

const storeHint = "GITHUB_TOKEN stores evidence of its own repository, while its job runs and has `permissions: attestations: write`; private repositories need GitHub Enterprise Cloud"

// refusal says why GitHub did not store a bundle, in its own words where it has some.
func refusal(resp *http.Response, content []byte) error {
	var said struct{ Message string }
	if json.Unmarshal(content, &said) != nil || said.Message == "" {
		said.Message = http.StatusText(resp.StatusCode)
	}
	e := &fault.Error{Op: "storing", Subject: "bundle", Kind: fault.Invalid, Err: fmt.Errorf("%s answers %d: %s", resp.Request.URL.Host, resp.StatusCode, said.Message)}
	switch status := resp.StatusCode; {
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError,
		status == http.StatusForbidden && passes(resp.Header, said.Message):
		e.Kind = fault.Unavailable
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusNotFound, status/100 == 3:
		e.Kind = fault.Environment
		e.Hint = storeHint
	}
	return e
}

// passes reports a 403 that is a rate limit, and no denial.
func passes(h http.Header, message string) bool {
	return h.Get("Retry-After") != "" || h.Get("x-ratelimit-remaining") == "0" || strings.Contains(strings.ToLower(message), "rate limit")
}

// asked is the wait that a limit asks for: by Retry-After, by the end of the hour's calls, or else a minute.
func (a *Archive) asked(h http.Header) time.Duration {
	if seconds, err := strconv.Atoi(h.Get("Retry-After")); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second
	}
	reset, err := strconv.ParseInt(h.Get("x-ratelimit-reset"), 10, 64)
	now, err2 := http.ParseTime(h.Get("Date"))
	if h.Get("x-ratelimit-remaining") == "0" && errors.Join(err, err2) == nil {
		return max(0, time.Unix(reset, 0).Sub(now))
	}
	return 80 * a.options.Pause
}

// sleep waits, or ends with the context.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
