package rehearsal

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Fault is what happens to a call instead of, or beside, what should.
//
// A call that is answered by its Fault alone never reaches the handler behind; with After it does,
// and only its answer is lost or replaced. Contradicting fields are refused by [NewInjector].
type Fault struct {
	Status int         // answered with this status, after the request's body was read
	Header http.Header // headers of that answer
	Body   string      // body of that answer

	Truncate int64 // the call takes effect; so many bytes of its true answer are sent under its full Content-Length, then the connection ends. An answer that is not longer is lost whole
	Reset    bool  // no answer: the connection is reset (TCP RST where there is TCP)
	ReadBody int64 // with Reset: bytes of the request's body that are taken first

	Delay time.Duration // waited before anything else; alone, the call then goes its way
	After bool          // the call takes effect first; then its answer is lost or replaced
	Stale bool          // a read is answered as before the last PUT or DELETE of its path; other calls go their way
	Kill  func()        // called instead of an answer, to end the client's process; when it returns, the connection is reset
}

// Answer replaces a call by an answer with a status and an OCI error body.
func Answer(status int) Fault {
	return Fault{Status: status, Header: jsonHeader(), Body: ociErrors(codeOf(status), http.StatusText(status))}
}

// HangUp resets the connection before the call takes effect.
func HangUp() Fault { return Fault{Reset: true} }

// LoseAnswer lets the call take effect and then resets the connection.
func LoseAnswer() Fault { return Fault{Reset: true, After: true} }

// CutUpload takes n bytes of the request's body and resets the connection.
func CutUpload(n int64) Fault { return Fault{Reset: true, ReadBody: n} }

// CutAnswer sends n bytes of the true answer's body and ends the connection.
func CutAnswer(n int64) Fault { return Fault{Truncate: n} }

// Outdated answers a read as before the last write of its path.
func Outdated() Fault { return Fault{Stale: true} }

// RateLimited is GHCR's 429 as pushes from 55 parallel jobs met it: the hint is a Go duration in the
// body, far below any wait that helps (chainguard-images/images#173).
func RateLimited() Fault { return tooManyRequests("10.305464ms", "2000/minute") }

// RateLimitedPull is GHCR's 429 on a popular public package, whose limit all its readers share
// (aquasecurity/trivy-db#442).
func RateLimitedPull() Fault { return tooManyRequests("35.852µs", "44000/minute") }

func tooManyRequests(after, allowed string) Fault {
	return Fault{
		Status: http.StatusTooManyRequests,
		Header: jsonHeader(),
		Body:   ociErrors("TOOMANYREQUESTS", "retry-after: "+after+", allowed: "+allowed),
	}
}

// RetryAfter is a 429 with the header: whole seconds, RFC 9110 section 10.2.3.
func RetryAfter(wait time.Duration) Fault {
	f := Answer(http.StatusTooManyRequests)
	f.Header.Set("Retry-After", fmt.Sprintf("%d", int64(wait/time.Second)))
	return f
}

// SecondaryLimited is the 403 that is a rate limit and no denial, as pushes to GHCR met it
// (markrussinovich/refchecker#67; the frame around the message: virtualcell/vcell#1888).
func SecondaryLimited() Fault {
	message := `permission_denied: Error from intermediary with HTTP status code 403 "Forbidden" - with-body: ` +
		`{"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}`
	return Fault{Status: http.StatusForbidden, Header: jsonHeader(), Body: ociErrors("DENIED", message)}
}

// Denied is the 403 of a token that may not write.
func Denied() Fault {
	return Fault{Status: http.StatusForbidden, Header: jsonHeader(), Body: ociErrors("DENIED", scopesMismatch)}
}

// UnknownBlob is GHCR's passing refusal of a manifest whose blobs were all pushed (infobloxopen/konk#626).
func UnknownBlob() Fault {
	return Fault{Status: http.StatusNotFound, Header: jsonHeader(), Body: ociErrors("BLOB_UNKNOWN", "unknown blob")}
}

// validate refuses fields that contradict each other and a fault that does nothing.
func (f Fault) validate() error {
	endings := count(f.Status != 0, f.Truncate != 0, f.Reset, f.Stale, f.Kill != nil)
	for _, rule := range []struct {
		broken bool
		why    string
	}{
		{f.Truncate < 0 || f.ReadBody < 0 || f.Delay < 0, "a number is negative"},
		{f.Status != 0 && (f.Status < 200 || f.Status > 599), "Status is not a final status of HTTP"},
		{endings > 1, "Status, Truncate, Reset, Stale and Kill exclude each other"},
		{endings == 0 && f.Delay == 0, "it does nothing"},
		{f.Status == 0 && (f.Header != nil || f.Body != ""), "Header and Body need a Status"},
		{f.ReadBody > 0 && (!f.Reset || f.After), "ReadBody needs Reset, and excludes After"},
		{f.After && f.Status == 0 && !f.Reset && f.Kill == nil, "After needs Status, Reset or Kill"},
	} {
		if rule.broken {
			return fault.New(fault.Invalid, "checking fault", f.String(), "%s", rule.why)
		}
	}
	return nil
}

func count(facts ...bool) int {
	n := 0
	for _, fact := range facts {
		if fact {
			n++
		}
	}
	return n
}

// String says what happens, as the end of "call 7: PUT /v2/…, …".
func (f Fault) String() string {
	var parts []string
	if f.Delay != 0 {
		parts = append(parts, "delayed "+f.Delay.String())
	}
	switch {
	case f.Status != 0:
		parts = append(parts, fmt.Sprintf("answered %d", f.Status))
	case f.Truncate != 0:
		parts = append(parts, fmt.Sprintf("answer cut at byte %d", f.Truncate))
	case f.Reset && f.After:
		return strings.Join(append(parts, "answer lost"), ", ")
	case f.Reset && f.ReadBody != 0:
		parts = append(parts, fmt.Sprintf("reset at byte %d of its body", f.ReadBody))
	case f.Reset:
		parts = append(parts, "reset")
	case f.Stale:
		parts = append(parts, "stale")
	case f.Kill != nil:
		parts = append(parts, "killed")
	}
	if f.After {
		parts = append(parts, "after it took effect")
	}
	return strings.Join(parts, ", ")
}
