package registry

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
)

// waits is how long one waits for a registry, and how often. It decides and does nothing.
type waits struct {
	floor   time.Duration // shortest wait; a registry that asks for less is not believed
	cap     time.Duration // longest wait that nobody asked for
	limit   time.Duration // after a rate limit that does not say how long it lasts
	spacing time.Duration // between requests that waited at the same gate
	budget  time.Duration // longest time without a good answer
}

// newWaits returns the waits in a unit, which is a second outside of tests. The minute after a
// limit without a hint is GitHub's: docs.github.com, "Rate limits for the REST API".
func newWaits(unit, budget time.Duration) waits {
	if budget <= 0 {
		budget = 600 * unit
	}
	return waits{floor: unit, cap: 120 * unit, limit: 60 * unit, spacing: unit / 10, budget: budget}
}

// outcome is what became of one attempt.
type outcome int

const (
	final   outcome = iota // it stands, good or bad
	failing                // it may be good the next time
	limited                // we asked too often
	absent                 // nobody is there, or nobody who speaks HTTP: it may be a restart, or a mistake
)

// answer is what the policy needs to know of an attempt.
type answer struct {
	outcome   outcome
	asked     time.Duration // wait that the registry asks for; zero if it does not
	everybody bool          // the wait is meant for all requests to this host
}

// decide says whether to repeat, and after which wait: what the registry asks for, otherwise
// exponential with full jitter between floor and cap. attempt counts from 0, elapsed is the time
// without a good answer, random is in [0, 1).
func (w waits) decide(a answer, attempt int, elapsed time.Duration, random float64) (wait time.Duration, again bool) {
	budget := w.budget
	ceiling := min(w.floor<<min(attempt+1, 10), w.cap)
	wait = w.floor + time.Duration(random*float64(ceiling-w.floor))
	switch {
	case a.outcome == final:
		return 0, false
	case a.outcome == absent:
		budget /= 10
	case a.asked >= w.floor:
		wait = a.asked
	case a.outcome == limited && a.asked == 0:
		wait = min(w.limit+wait, w.cap)
	}
	return wait, elapsed+wait <= budget
}

// judge tells what became of an attempt. It reads the beginning of an error's body, and gives it
// back.
func judge(req *http.Request, resp *http.Response, err error, now time.Time) answer {
	if err != nil {
		return answer{outcome: judgeError(req, err)}
	}
	if resp.StatusCode < http.StatusBadRequest {
		return answer{}
	}
	return judgeStatus(resp.StatusCode, resp.Header, peek(resp), now)
}

// judgeStatus reads an answer. GitHub says 403 or 429 for its limits, and 403 for what is denied.
func judgeStatus(code int, h http.Header, body string, now time.Time) answer {
	asked, limit := askedWait(h, body, now), saysLimit(h, body)
	switch {
	case code == http.StatusNotImplemented, code == http.StatusInsufficientStorage:
		return answer{} // a missing feature and a full disk stay so
	case code == http.StatusForbidden && limit:
		return answer{outcome: limited, asked: asked, everybody: true}
	case code == http.StatusTooManyRequests && strings.Contains(body, "secondary rate limit"):
		return answer{outcome: limited, asked: asked, everybody: true}
	case code == http.StatusTooManyRequests:
		return answer{outcome: failing, asked: asked, everybody: true}
	case code == http.StatusRequestTimeout, code >= http.StatusInternalServerError:
		return answer{outcome: failing, asked: asked, everybody: asked > 0}
	}
	return answer{}
}

// judgeError tells what passes from what stays. What it does not know gets the short patience of
// a host where nobody is.
func judgeError(req *http.Request, err error) outcome {
	var (
		certificate *tls.CertificateVerificationError
		alert       tls.AlertError
		name        *net.DNSError
		network     net.Error
		_, known    = fault.KindOf(err)
	)
	switch {
	case known, req.Context().Err() != nil, errors.Is(err, errPlain), errors.Is(err, http.ErrSchemeMismatch):
		return final
	case errors.As(err, &certificate), errors.As(err, &alert), errors.As(err, &name) && name.IsNotFound:
		return final
	case errors.Is(err, syscall.ECONNREFUSED) && (ref.Repo{Host: req.URL.Host}).Loopback():
		return final // on this machine nobody is about to restart it
	case errors.Is(err, syscall.ECONNREFUSED):
		return absent
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failing
	}
	return absent
}

// maxHint bounds what is read of an error's body to find a hint, in bytes.
const maxHint = 8 << 10

// peek returns the beginning of a body in lower case and leaves the body as it was.
func peek(resp *http.Response) string {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxHint))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = broken{err}
	}
	resp.Body = peeked{io.MultiReader(bytes.NewReader(head), rest), resp.Body}
	return strings.ToLower(string(head))
}

type peeked struct {
	io.Reader
	io.Closer
}

// broken is a body that ends with an error.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

// saysLimit reports whether an answer speaks of a rate limit. body is in lower case.
func saysLimit(h http.Header, body string) bool {
	if h.Get("Retry-After") != "" || h.Get("X-Ratelimit-Remaining") == "0" {
		return true
	}
	for _, words := range []string{"rate limit", "toomanyrequests", "too many requests", "retry-after:"} {
		if strings.Contains(body, words) {
			return true
		}
	}
	return false
}

// bodyHint is how GHCR says it: "retry-after: 10.305464ms, allowed: 2000/minute".
var bodyHint = lazyregexp.New(`retry-after: *([0-9][0-9.a-zµμ]*)`)

// maxAsked bounds what a registry may ask for: more is no longer a pause.
const maxAsked = 24 * time.Hour

// askedWait returns how long an answer asks to wait, or zero: Retry-After (RFC 9110, 10.2.3) in
// the header, then in the body, then the reset time of a limit that is used up.
func askedWait(h http.Header, body string, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date // its clock and ours may differ
	}
	if d, ok := parseWait(h.Get("Retry-After"), now); ok {
		return d
	}
	if hint := bodyHint.FindStringSubmatch(body); hint != nil {
		if d, ok := parseWait(strings.TrimRight(hint[1], "."), now); ok {
			return d
		}
	}
	if h.Get("X-Ratelimit-Remaining") == "0" {
		if reset, err := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64); err == nil {
			return bounded(time.Unix(reset, 0).Sub(now))
		}
	}
	return 0
}

// parseWait reads seconds, an HTTP date, or a Go duration.
func parseWait(s string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(maxAsked/time.Second))) * time.Second, true
	}
	if at, err := http.ParseTime(s); err == nil {
		return bounded(at.Sub(now)), true
	}
	d, err := time.ParseDuration(s)
	return bounded(d), err == nil
}

func bounded(d time.Duration) time.Duration { return min(max(d, 0), maxAsked) }
