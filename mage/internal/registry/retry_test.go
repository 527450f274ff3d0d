package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
)

const (
	manifests = "https://ghcr.io/v2/owner/app/manifests/dev"
	uploads   = "https://ghcr.io/v2/owner/app/blobs/uploads/1?digest=sha256:00"
)

// B1: what a registry asks for, in header or body, is waited for to the millisecond; less than a
// second is not believed. These are the answers of GHCR and of GitHub's REST documentation.
func TestB1APauseTheRegistryAsksForIsTaken(t *testing.T) {
	for name, test := range map[string]struct {
		refusal *http.Response
		want    time.Duration
	}{
		"429 with microseconds in the body":     {refusal(429, `{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: 35.852µs, allowed: 44000/minute"}]}`), time.Second},
		"429 with milliseconds in the body":     {refusal(429, `TOOMANYREQUESTS: retry-after: 10.305464ms, allowed: 2000/minute`), time.Second},
		"429 with seconds in the body":          {refusal(429, `retry-after: 2m5.5s, allowed: 2000/minute`), 125500 * time.Millisecond},
		"429 with 60 in the header":             {refusal(429, "", "Retry-After", "60"), time.Minute},
		"429 with 0 in the header":              {refusal(429, "", "Retry-After", "0"), time.Second},
		"429 with nothing":                      {refusal(429, ""), time.Second},
		"429 with a date":                       {refusal(429, "", "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT", "Date", "Fri, 31 Dec 1999 23:59:20 GMT"), 39 * time.Second},
		"429 with a date by our clock":          {refusal(429, "", "Retry-After", "Sat, 01 Jan 2000 00:00:30 GMT"), 30 * time.Second},
		"429 with a date that is over":          {refusal(429, "", "Retry-After", "Fri, 31 Dec 1999 00:00:00 GMT"), time.Second},
		"429 with rubbish":                      {refusal(429, "retry-after: soon", "Retry-After", "-1x"), time.Second},
		"429 with a limit that is used up":      {refusal(429, "", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684845"), 45 * time.Second},
		"429 with a limit that is not":          {refusal(429, "", "X-Ratelimit-Remaining", "7", "X-Ratelimit-Reset", "946684845"), time.Second},
		"429 of a secondary limit":              {refusal(429, "You have exceeded a secondary rate limit."), 61 * time.Second},
		"503 with a minute in the header":       {refusal(503, "", "Retry-After", "60"), time.Minute},
		"B2: 403 of a secondary limit":          {refusal(403, `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes"}`), 61 * time.Second},
		"B2: 403 with a minute and a half":      {refusal(403, "", "Retry-After", "90"), 90 * time.Second},
		"B2: 403 of a primary limit":            {refusal(403, "API rate limit exceeded", "X-Ratelimit-Remaining", "0", "X-Ratelimit-Reset", "946684845"), 45 * time.Second},
		"B2: 403 in the distribution's own way": {refusal(403, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`), 61 * time.Second},
		"500":                                   {refusal(500, ""), time.Second},
		"502":                                   {refusal(502, "<html>"), time.Second},
		"408":                                   {refusal(408, ""), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, wire := scripted(test.refusal, refusal(200, "ok"))
				began := time.Now()
				resp, err := r.RoundTrip(request(t, "GET", manifests))
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("RoundTrip = %v, %v", resp, err)
				}
				if got := time.Since(began); got != test.want {
					t.Errorf("it waited %s, want %s", got, test.want)
				}
				if c := r.count.counts(); len(wire.sent) != 2 || c.Repeats != 1 || c.WaitedMS != test.want.Milliseconds() {
					t.Errorf("%d requests, counted %+v", len(wire.sent), c)
				}
			})
		})
	}
}

// B2: what is denied stays denied, and what else no repetition heals.
func TestB2WhatStaysIsNotRepeated(t *testing.T) {
	for name, resp := range map[string]*http.Response{
		"403 denied":      refusal(403, `{"errors":[{"code":"DENIED","message":"permission_denied: write_package"}]}`),
		"401":             refusal(401, ""),
		"404":             refusal(404, ""),
		"400 unknown":     refusal(400, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`),
		"501 no feature":  refusal(501, ""),
		"507 disk full":   refusal(507, ""),
		"200 about limit": refusal(200, "rate limit", "X-Ratelimit-Remaining", "0"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				said, _ := io.ReadAll(resp.Body)
				resp.Body = io.NopCloser(bytes.NewReader(said))
				r, wire := scripted(resp)
				began := time.Now()
				got, err := r.RoundTrip(request(t, "GET", manifests))
				if err != nil || got.StatusCode != resp.StatusCode || len(wire.sent) != 1 || time.Since(began) != 0 {
					t.Fatalf("RoundTrip = %v, %v after %d requests and %s", got, err, len(wire.sent), time.Since(began))
				}
				if rest, _ := io.ReadAll(got.Body); !bytes.Equal(rest, said) {
					t.Errorf("of the body %q remains %q", said, rest)
				}
			})
		})
	}
}

func TestB2ADeniedLoginIsToldWhichScopeItLacks(t *testing.T) {
	kind, hint := diagnoseStatus(&errcode.ErrorResponse{StatusCode: 403, URL: request(t, "PUT", manifests).URL})
	if kind != fault.Environment || !strings.Contains(hint, "write:packages") || !strings.Contains(hint, "role") {
		t.Errorf("403 is %v, %q", kind, hint)
	}
}

func TestALongErrorComesBackWhole(t *testing.T) {
	said := strings.Repeat("no ", maxHint)
	resp := refusal(403, said)
	r, _ := scripted(resp)
	got, err := r.RoundTrip(request(t, "GET", manifests))
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(got.Body); string(rest) != said || err != nil {
		t.Errorf("%d of %d bytes come back, %v", len(rest), len(said), err)
	}
}

// B3: patience has an end, and says where it ended.
func TestB3TheBudgetIsKeptAndNamesTheEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(503, ""))
		began := time.Now()
		_, err := r.RoundTrip(request(t, "PUT", manifests+"?secret=1"))
		took := time.Since(began)
		if !errors.Is(err, fault.Unavailable) || took > 10*time.Minute || took < 8*time.Minute {
			t.Fatalf("after %s: %v", took, err)
		}
		for _, want := range []string{"PUT manifests of owner/app at ghcr.io", fmt.Sprint(len(wire.sent), " attempts"), took.String(), "503"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "secret") || !strings.Contains(fault.HintOf(err), "safe") {
			t.Errorf("%v; hint %q", err, fault.HintOf(err))
		}
	})
}

func TestAPauseBeyondTheBudgetIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(429, "", "Retry-After", "3600"))
		began := time.Now()
		_, err := r.RoundTrip(request(t, "GET", manifests))
		if !errors.Is(err, fault.Unavailable) || time.Since(began) != 0 || len(wire.sent) != 1 || !strings.Contains(err.Error(), "1h0m0s") {
			t.Errorf("after %s and %d requests: %v", time.Since(began), len(wire.sent), err)
		}
	})
}

// One operation has one budget for all its requests; a good answer renews it.
func TestOneOperationHasOneBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(500, ""))
		ctx := patient(patient(t.Context()))
		if patientAgain := patient(ctx); patientAgain != ctx {
			t.Error("an operation within an operation has a budget of its own")
		}
		began := time.Now()
		for range 5 {
			if _, err := r.RoundTrip(request(t, "GET", manifests).WithContext(ctx)); !errors.Is(err, fault.Unavailable) {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 10*time.Minute {
			t.Errorf("five requests took %s", took)
		}
		wire.answers = append(wire.answers, refusal(200, ""), refusal(500, ""), refusal(200, ""))
		wire.answers = wire.answers[1:]
		for range 2 {
			if _, err := r.RoundTrip(request(t, "GET", manifests).WithContext(ctx)); err != nil {
				t.Errorf("after a good answer: %v", err)
			}
		}
	})
}

func TestOnlyErrorsThatPassAreRepeated(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, test := range map[string]struct {
		err  error
		url  string
		want time.Duration // between none and all of the budget
	}{
		"a reset":                        {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, manifests, 10 * time.Minute},
		"a timeout":                      {&net.OpError{Op: "read", Err: context.DeadlineExceeded}, manifests, 10 * time.Minute},
		"an answer that ends early":      {io.ErrUnexpectedEOF, manifests, 10 * time.Minute},
		"a name server that is slow":     {&net.DNSError{IsTimeout: true}, manifests, 10 * time.Minute},
		"nobody listens":                 {refused, manifests, time.Minute},
		"what nobody has seen before":    {errors.New("new"), manifests, time.Minute},
		"nobody listens on this machine": {refused, "http://127.0.0.1:1/v2/a/b/manifests/c", 0},
		"a name that does not exist":     {&net.DNSError{IsNotFound: true}, manifests, 0},
		"a certificate of another":       {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, manifests, 0},
		"a peer that hangs up on TLS":    {tls.AlertError(40), manifests, 0},
		"plain HTTP":                     {errPlain, manifests, 0},
		"content that is forged":         {fault.New(fault.Forged, "reading", "x", "wrong"), manifests, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, wire := scripted(nil)
				wire.err = test.err
				began := time.Now()
				_, err := r.RoundTrip(request(t, "GET", test.url))
				took := time.Since(began)
				if !errors.Is(err, test.err) || took > test.want || took < test.want/2 {
					t.Errorf("it was given %s, want up to %s; %v", took, test.want, err)
				}
				if errors.Is(err, fault.Unavailable) != (test.want > 0) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

func TestAnInterruptedWaitEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := scripted(refusal(429, "", "Retry-After", "300"))
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		began := time.Now()
		_, err := r.RoundTrip(request(t, "GET", manifests).WithContext(ctx))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 7*time.Second || r.count.counts().WaitedMS != 7000 {
			t.Errorf("after %s, counted %+v: %v", took, r.count.counts(), err)
		}
	})
}

// A pause that one request is asked for holds back all others to that host, and none elsewhere;
// afterwards they go one by one.
func TestAPauseHoldsBackEverybodyAndLetsThemGoOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(429, "", "Retry-After", "60"), refusal(200, ""))
		began := time.Now()
		var all sync.WaitGroup
		send := func(url string) {
			all.Go(func() {
				if _, err := r.RoundTrip(request(t, "GET", url)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		send(manifests)
		for range 20 {
			send(manifests)
		}
		send("https://elsewhere.example/v2/a/b/manifests/c")
		all.Wait()
		var at []time.Duration
		for _, sent := range wire.sent {
			at = append(at, sent.Sub(began))
		}
		if at[1] != 0 {
			t.Errorf("another host had to wait %s", at[1])
		}
		for i, got := range at[2:] {
			if want := time.Minute + time.Duration(i)*100*time.Millisecond; got != want {
				t.Errorf("request %d was sent after %s, want %s", i, got, want)
			}
		}
		if len(at) != 23 {
			t.Errorf("%d requests", len(at))
		}
	})
}

func TestAHoldThatGrowsKeepsTheWaitingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(429, "", "Retry-After", "10"), refusal(429, "", "Retry-After", "20"), refusal(200, ""))
		began := time.Now()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if _, err := r.RoundTrip(request(t, "GET", manifests)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		early := slices.ContainsFunc(wire.sent[2:], func(at time.Time) bool { return at.Sub(began) < 30*time.Second })
		if len(wire.sent) != 5 || early {
			t.Errorf("%d requests at %v", len(wire.sent), wire.sent)
		}
	})
}

// B4: a body that is gone is not sent again: the upload is begun anew by who has the content.
func TestB4ABodyThatIsGoneIsNotSentAgain(t *testing.T) {
	for name, test := range map[string]struct {
		resp *http.Response
		err  error
	}{
		"503":                {refusal(503, ""), nil},
		"429 with a minute":  {refusal(429, "", "Retry-After", "60"), nil},
		"403 of a limit":     {refusal(403, "secondary rate limit"), nil},
		"a reset in the end": {nil, syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, wire := scripted(test.resp)
				wire.err = test.err
				began := time.Now()
				_, err := r.RoundTrip(upload(t, 10))
				if !errors.Is(err, fault.Unavailable) || len(wire.sent) != 1 || time.Since(began) != 0 {
					t.Errorf("%d requests, %s: %v", len(wire.sent), time.Since(began), err)
				}
			})
		})
	}
}

func TestARewoundBodyIsSentWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(500, ""), refusal(201, ""))
		req := request(t, "PUT", manifests)
		req.Body, req.GetBody = io.NopCloser(strings.NewReader("manifest")), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("manifest")), nil }
		if _, err := r.RoundTrip(req); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(wire.bodies, []string{"manifest", "manifest"}) {
			t.Errorf("sent %q", wire.bodies)
		}
	})
}

// B14: an upload that lost its login is worth one new session, which has a new token, and no more.
func TestB14AnUploadThatLostItsLoginIsBegunAnewOnce(t *testing.T) {
	r, wire := scripted(refusal(401, ""))
	_, err := r.RoundTrip(upload(t, 10))
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(fault.HintOf(err), "docker login ghcr.io") {
		t.Errorf("the first time: %v, hint %q", err, fault.HintOf(err))
	}
	if resp, err := r.RoundTrip(upload(t, 10)); err != nil || resp.StatusCode != http.StatusUnauthorized || len(wire.sent) != 2 {
		t.Errorf("the second time: %v, %v", resp, err)
	}
	wire.answers = []*http.Response{refusal(401, ""), refusal(201, ""), refusal(401, "")}
	for i, want := range []bool{true, false, true} {
		if _, err := r.RoundTrip(upload(t, 10)); errors.Is(err, fault.Unavailable) != want {
			t.Errorf("after a good upload, %d: %v", i, err)
		}
	}
}

func TestWaitsStayWithinTheirBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		w := newWaits(time.Duration(1+random.IntN(2000))*time.Millisecond, 0)
		a := answer{outcome: outcome(random.IntN(4)), asked: time.Duration(random.Int64N(int64(3 * w.budget / 2)))}
		attempt, elapsed := random.IntN(100), time.Duration(random.Int64N(int64(w.budget)))
		wait, again := w.decide(a, attempt, elapsed, random.Float64())
		switch {
		case a.outcome == final:
			if again {
				t.Fatalf("%+v is repeated", a)
			}
		case again && elapsed+wait > w.budget:
			t.Fatalf("%+v: %s after %s exceeds %s", a, wait, elapsed, w.budget)
		case wait < w.floor:
			t.Fatalf("%+v: %s is below %s", a, wait, w.floor)
		case a.asked >= w.floor && a.outcome != absent && wait != a.asked:
			t.Fatalf("%+v: %s", a, wait)
		case a.asked < w.floor && wait > w.cap:
			t.Fatalf("%+v: %s is above %s", a, wait, w.cap)
		}
	}
	w := newWaits(time.Second, 0)
	for attempt, want := range []time.Duration{2, 4, 8, 16, 32, 64, 120, 120} {
		if low, _ := w.decide(answer{outcome: failing}, attempt, 0, 0); low != time.Second {
			t.Errorf("attempt %d waits at least %s", attempt, low)
		}
		if high, _ := w.decide(answer{outcome: failing}, attempt, 0, 1); high != want*time.Second {
			t.Errorf("attempt %d waits at most %s, want %ds", attempt, high, want)
		}
	}
}

func FuzzAskedWaitIsBounded(f *testing.F) {
	f.Add("60", "", "", "")
	f.Add("-9223372036854775808", "retry-after: 35.852µs, allowed", "0", "946684845")
	f.Add("Fri, 31 Dec 1999 23:59:59 GMT", "retry-after: 9999999h", "0", "-9223372036854775808")
	f.Fuzz(func(t *testing.T, header, body, remaining, reset string) {
		h := http.Header{"Retry-After": {header}, "X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}}
		if d := askedWait(h, strings.ToLower(body), time.Unix(946684800, 0)); d < 0 || d > maxAsked {
			t.Errorf("%q, %q: %s", header, body, d)
		}
	})
}

// script is a wire that gives prepared answers, the last one again and again.
type script struct {
	mu      sync.Mutex
	answers []*http.Response
	err     error
	took    time.Duration
	sent    []time.Time
	bodies  []string
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, time.Now())
	if req.Body != nil {
		content, _ := io.ReadAll(req.Body)
		s.bodies = append(s.bodies, string(content))
	}
	if s.took > 0 {
		<-time.After(s.took)
	}
	if s.err != nil {
		return nil, s.err
	}
	next := *s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	} else {
		content, _ := io.ReadAll(next.Body)
		s.answers[0].Body, next.Body = io.NopCloser(bytes.NewReader(content)), io.NopCloser(bytes.NewReader(content))
	}
	next.Request = req
	return &next, nil
}

// scripted returns a repeater with real waits and without luck, over prepared answers.
func scripted(answers ...*http.Response) (*repeater, *script) {
	wire := &script{answers: answers}
	count := &meter{base: wire, calls: map[string]int{}}
	r := newRepeater(count, count, newWaits(time.Second, 0), time.Now)
	r.random = func() float64 { return 0 }
	return r, wire
}

func refusal(code int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func request(t *testing.T, method, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// upload is the request that sends a blob: its body is a stream.
func upload(t *testing.T, size int64) *http.Request {
	t.Helper()
	req := request(t, "PUT", uploads)
	req.Body, req.ContentLength = io.NopCloser(io.LimitReader(rand.NewChaCha8([32]byte{}), 10)), size
	return req
}

func TestABodyThatIsNotSentIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(429, "", "Retry-After", "60"), refusal(200, ""))
		go func() { _, _ = r.RoundTrip(request(t, "GET", manifests)) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		req := upload(t, 10).WithContext(ctx)
		closed := &closing{Reader: req.Body}
		req.Body = closed
		cancel()
		if _, err := r.RoundTrip(req); !errors.Is(err, fault.Interrupted) || !closed.done || len(wire.sent) != 1 {
			t.Errorf("%v after %d requests, closed: %v", err, len(wire.sent), closed.done)
		}
	})
}

type closing struct {
	io.Reader
	done bool
}

func (c *closing) Close() error { c.done = true; return nil }
