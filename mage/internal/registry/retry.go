package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
)

// repeater sends a request until it has an answer that stands, or patience ends. What comes out of
// it is such an answer, an error that no repetition would heal, or fault.Unavailable.
//
// A request whose body cannot be read again is sent once: its caller begins anew what it belongs
// to, an upload in a session of its own.
type repeater struct {
	base   http.RoundTripper
	count  *meter
	waits  waits
	now    func() time.Time
	random func() float64 // in [0, 1)

	mu      sync.Mutex
	gates   map[string]*gate // by host
	refused map[string]bool  // digests whose upload was refused its login once
}

func newRepeater(base http.RoundTripper, count *meter, w waits, now func() time.Time) *repeater {
	return &repeater{
		base: base, count: count, waits: w, now: now, random: rand.Float64,
		gates: map[string]*gate{}, refused: map[string]bool{},
	}
}

func (r *repeater) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, g, p := req.Context(), r.gate(req.URL.Host), patienceOf(req.Context())
	for attempt := 0; ; attempt++ {
		if err := r.pass(ctx, g); err != nil {
			return nil, abandon(req, err)
		}
		began := r.now()
		resp, err := r.send(req)
		now := r.now()
		a := judge(req, resp, err, now)
		if a.outcome == final {
			p.renew()
			return r.settle(req, resp, err, now.Sub(began))
		}
		lost := p.lost(now)
		wait, again := r.waits.decide(a, attempt, lost, r.random())
		if again && a.everybody {
			g.hold(now.Add(wait)) // for this request too
		}
		if !again || !rewindable(req) {
			return nil, r.giveUp(req, a, failure{err: cause(resp, err), attempts: attempt + 1, lost: lost, took: now.Sub(began)})
		}
		drop(resp)
		if !a.everybody {
			if err := r.sleep(ctx, wait); err != nil {
				return nil, err
			}
		}
		if req, err = rewound(req); err != nil {
			return nil, err
		}
		r.count.repeat()
	}
}

// send sends a request once and returns an answer that is whole: one that breaks off in the middle
// of a manifest or a list is none.
func (r *repeater) send(req *http.Request) (*http.Response, error) {
	resp, err := r.base.RoundTrip(req)
	if err == nil && isUnexplained(req, resp) {
		drop(resp)
		resp, err = r.askWhy(req)
	}
	if err == nil && isShort(req, resp) {
		err = receive(resp)
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// isUnexplained reports whether a HEAD was forbidden without a reason: it has no body, and GitHub
// says there alone whether this is a denial or a rate limit.
func isUnexplained(req *http.Request, resp *http.Response) bool {
	return req.Method == http.MethodHead && resp.StatusCode == http.StatusForbidden && !saysLimit(resp.Header, "")
}

// askWhy sends a forbidden HEAD again as a GET, whose refusal has a body.
func (r *repeater) askWhy(req *http.Request) (*http.Response, error) {
	get := req.Clone(req.Context())
	get.Method = http.MethodGet
	get.Header.Set("Range", "bytes=0-0") // it may be granted, and a layer is large
	resp, err := r.base.RoundTrip(get)
	if err == nil && resp.StatusCode < http.StatusBadRequest {
		drop(resp)
		err = errors.New("it was forbidden, and a moment later it was not")
	}
	return resp, err
}

// isShort reports whether an answer is a document, which is read whole anyway, and no layer.
func isShort(req *http.Request, resp *http.Response) bool {
	if req.Method != http.MethodGet || resp.StatusCode != http.StatusOK {
		return false
	}
	where := endpoint(req.URL)
	return resp.ContentLength >= 0 && resp.ContentLength <= maxCached || where == "manifests" || where == "tags" || where == "referrers"
}

// receive reads a body into memory, or at least its first maxCached bytes.
func receive(resp *http.Response) error {
	head, err := io.ReadAll(io.LimitReader(resp.Body, maxCached))
	if err != nil {
		_ = resp.Body.Close()
		return fmt.Errorf("the answer breaks off: %w", err)
	}
	resp.Body = peeked{io.MultiReader(bytes.NewReader(head), resp.Body), resp.Body}
	return nil
}

// abandon closes the body of a request that is not sent, as a RoundTripper must.
func abandon(req *http.Request, why error) error {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return why
}

// rewindable reports whether a request can be sent a second time.
func rewindable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// rewound returns the request with its body at the beginning.
func rewound(req *http.Request) (*http.Request, error) {
	if req.GetBody == nil {
		return req, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	again.Body = body
	return again, nil
}

// errBroken is what may be begun anew by who has the content: its bytes are gone, or have not
// arrived, and no budget was spent on it.
var errBroken = errors.New("the transfer broke off")

// settle passes on an answer that stands. An upload that was refused its login is the exception:
// its body is gone, but a session opened anew has a token of its own, so it is worth one more.
func (r *repeater) settle(req *http.Request, resp *http.Response, err error, took time.Duration) (*http.Response, error) {
	if err != nil || rewindable(req) {
		return resp, err
	}
	if resp.StatusCode == http.StatusCreated {
		r.count.upload(req.ContentLength, took)
	}
	if !r.expired(req.URL.Query().Get("digest"), resp.StatusCode) {
		return resp, nil
	}
	defer drop(resp)
	return nil, &fault.Error{
		Op: "sending", Subject: destination(req), Kind: fault.Unavailable, Err: fmt.Errorf("%w: %w", errBroken, printable(readAnswer(resp))),
		Hint: "the login ended in the middle of an upload; log in with docker login " + req.URL.Host + " and run the same command again",
	}
}

// expired says of the upload of a digest whether this is the first refusal of its login.
func (r *repeater) expired(digest string, status int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status == http.StatusUnauthorized && !r.refused[digest] {
		r.refused[digest] = true
		return true
	}
	delete(r.refused, digest)
	return false
}

// failure is how far one request came.
type failure struct {
	err      error
	attempts int
	lost     time.Duration // without a good answer
	took     time.Duration // the last attempt
}

// giveUp explains why a request is not sent again.
func (r *repeater) giveUp(req *http.Request, a answer, f failure) error {
	if err := limitsOf(req.URL.Host).explain(req, f); err != nil {
		return err
	}
	e := &fault.Error{Op: "sending", Subject: destination(req), Kind: fault.Unavailable, Err: f.err, Hint: "check the host name and the network; running the same command again is safe"}
	if answered := new(errcode.ErrorResponse); errors.As(f.err, &answered) {
		e.Hint = "the registry is busy or ill; running the same command again is safe"
	}
	switch {
	case a.asked > r.waits.budget:
		e.Err = fmt.Errorf("it asks to wait for %s, longer than the %s it is given: %w", a.asked, r.waits.budget, f.err)
	case rewindable(req):
		e.Err = fmt.Errorf("no good answer for %s, after %d attempts: %w", f.lost.Round(time.Millisecond), f.attempts, f.err)
	default:
		e.Err = fmt.Errorf("%w: %w", errBroken, f.err)
	}
	return e
}

// destination names where a request goes: "PUT manifests of owner/app at ghcr.io". What else is in
// its URL may be secret.
func destination(req *http.Request) string {
	where, name := route(req.URL)
	if name != "" {
		where += " of " + name
	}
	return req.Method + " " + where + " at " + req.URL.Host
}

// cause is what went wrong, as oras-go would say it, without what may be secret in a URL.
func cause(resp *http.Response, err error) error {
	if err != nil {
		return printable(err)
	}
	defer drop(resp)
	return printable(readAnswer(resp))
}

// drop reads the rest of a short body, so that its connection can be used again, and closes it.
func drop(resp *http.Response) {
	if resp != nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
		_ = resp.Body.Close()
	}
}

// gate holds back what goes to one host while that host has asked for a pause, and then lets the
// waiting through one after another, not all at once.
type gate struct {
	mu    sync.Mutex
	until time.Time // nobody passes before
	next  time.Time // when the next who asks may pass
}

func (r *repeater) gate(host string) *gate {
	r.mu.Lock()
	defer r.mu.Unlock()
	host = strings.ToLower(host)
	if r.gates[host] == nil {
		r.gates[host] = &gate{}
	}
	return r.gates[host]
}

// pass waits until a request may be sent.
func (r *repeater) pass(ctx context.Context, g *gate) error {
	for {
		wait := g.queue(r.now(), r.waits.spacing)
		if wait <= 0 {
			return nil
		}
		if err := r.sleep(ctx, wait); err != nil {
			return err
		}
		if g.open(r.now()) {
			return nil
		}
	}
}

// queue returns how long to wait for the place it takes; none if nobody waits.
func (g *gate) queue(now time.Time, spacing time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	wait := g.next.Sub(now)
	if wait > 0 {
		g.next = g.next.Add(spacing)
	}
	return wait
}

func (g *gate) hold(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
	}
	if until.After(g.next) {
		g.next = until
	}
}

func (g *gate) open(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !now.Before(g.until)
}

func (r *repeater) sleep(ctx context.Context, d time.Duration) error {
	began := r.now()
	err := sleep(ctx, d)
	r.count.wait(r.now().Sub(began))
	return err
}

// patience measures how long an operation has gone without a good answer. Any answer that stands
// renews it: a release that makes progress may be as slow as its registry.
type patience struct {
	mu    sync.Mutex
	since time.Time // of the first failure after the last good answer
}

type patienceKey struct{}

// patient returns a context whose requests share one budget; an operation within another shares
// that one's. A request outside of any operation has its own.
func patient(ctx context.Context) context.Context {
	if _, ok := ctx.Value(patienceKey{}).(*patience); ok {
		return ctx
	}
	return context.WithValue(ctx, patienceKey{}, &patience{})
}

func patienceOf(ctx context.Context) *patience {
	return patient(ctx).Value(patienceKey{}).(*patience)
}

// lost returns the time since the first failure in a row, which may be this one.
func (p *patience) lost(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		p.since = now
	}
	return now.Sub(p.since)
}

func (p *patience) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Time{}
}
