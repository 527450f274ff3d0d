package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// Rows of the catalogue whose waits are seconds and minutes: the rehearsal of GHCR under its own
// name, behind connections in memory, with the waits of a release and the clock of a bubble.

func TestB1AMinuteThatGHCRAsksForIsWaitedAndAMicrosecondIsNotBelieved(t *testing.T) {
	for name, test := range map[string]struct {
		fault       rehearsal.Fault
		least, most time.Duration
	}{
		"429 with microseconds in the body":     {rehearsal.RateLimitedPull(), time.Second, 3 * time.Second},
		"429 with milliseconds in the body":     {rehearsal.RateLimited(), time.Second, 3 * time.Second},
		"429 with 60 in the header":             {rehearsal.RetryAfter(time.Minute), time.Minute, 61 * time.Second},
		"B3: 503":                               {rehearsal.Answer(503), time.Second, 3 * time.Second},
		"B4: a reset":                           {rehearsal.HangUp(), 0, 3 * time.Second},
		"B7: an answer that ends in the middle": {rehearsal.CutAnswer(100), 0, 3 * time.Second},
	} {
		for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodPut} {
			t.Run(method+" "+name, func(t *testing.T) {
				inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
					w := rehearse(t, model, rehearsal.Rule{Method: method, Path: "/manifests/", Call: 2, Fault: test.fault})
					n := w.publish(t)
					if _, err := w.app.MoveTag(t.Context(), release.Move{Tag: ref.Tagged{Repo: w.app.Name(), Tag: "dev"}, To: n}); err != nil {
						t.Fatal(err)
					}
					if err := Verify(t.Context(), w.app, n); err != nil {
						t.Error(err)
					}
					if took := time.Since(w.began); took < test.least || took > test.most || w.Fired()[0] != 1 {
						t.Errorf("it took %s with %d faults, want %s to %s with one", took, w.Fired()[0], test.least, test.most)
					}
				})
			})
		}
	}
}

func TestB1TheBudgetOfAnOperationIsKept(t *testing.T) {
	for name, f := range map[string]rehearsal.Fault{
		"429 again and again": rehearsal.RetryAfter(90 * time.Second), "B3: 503 again and again": rehearsal.Answer(503), "B2: limited again and again": rehearsal.SecondaryLimited(),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
				w := rehearse(t, model, rehearsal.Rule{Method: http.MethodPut, Path: "/manifests/dev", Fault: f})
				n := w.publish(t)
				_, err := w.app.MoveTag(t.Context(), release.Move{Tag: ref.Tagged{Repo: w.app.Name(), Tag: "dev"}, To: n})
				if took := time.Since(w.began); !errors.Is(err, fault.Unavailable) || took > 10*time.Minute || took < 7*time.Minute {
					t.Errorf("after %s: %v", took, err)
				}
				if err == nil || !strings.Contains(err.Error(), "PUT manifests of family/app at ghcr.io") || fault.HintOf(err) == "" {
					t.Errorf("%v, hint %q", err, fault.HintOf(err))
				}
				if tags, err := w.app.Tags(t.Context()); len(tags) != 0 || err != nil {
					t.Errorf("tags %v, %v", tags, err)
				}
			})
		})
	}
}

// GitHub says 403 for a limit too, and in the body which of both it is. A HEAD has no body: it has to
// be asked again, or the first request of a release, limited, would look like a login that may not.
func TestB2ALimitThatLooksForbiddenIsWaitedFor(t *testing.T) {
	for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodPut, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
				w := rehearse(t, model, rehearsal.Rule{Method: method, Call: 1, Fault: rehearsal.SecondaryLimited()}, rehearsal.Rule{Method: http.MethodGet, Call: 1, Fault: rehearsal.SecondaryLimited()})
				n := w.publish(t)
				if err := Verify(t.Context(), w.app, n); err != nil {
					t.Error(err)
				}
				waits := time.Minute
				if method == http.MethodPut || method == http.MethodPost {
					waits *= 2 // the GET is another request
				}
				if took := time.Since(w.began); took < waits || took > waits+5*time.Second {
					t.Errorf("it took %s, want %s and little more", took, waits)
				}
			})
		})
	}
}

// What is denied is denied at once, whatever is asked first.
func TestB2ADenialIsKnownAtOnceByWhateverIsAskedFirst(t *testing.T) {
	for _, method := range []string{http.MethodHead, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
				denied := []rehearsal.Rule{{Method: method, Fault: rehearsal.Denied()}, {Method: http.MethodGet, Fault: rehearsal.Denied()}}
				w := rehearse(t, model, denied...)
				src := memory.New()
				err := w.app.CopyFrom(t.Context(), src, artifact(t, src))
				if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "write:packages") || time.Since(w.began) != 0 {
					t.Errorf("after %s: %v, hint %q", time.Since(w.began), err, fault.HintOf(err))
				}
			})
		})
	}
}

// A tag that the registry refused to write counts as nothing done: it is no reason to mend anything.
func TestB2ATagThatIsDeniedIsNotWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
		w := rehearse(t, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, "/manifests/dev") {
				rw.WriteHeader(http.StatusForbidden)
				return
			}
			model.ServeHTTP(rw, req)
		}))
		n := w.publish(t)
		written, err := w.app.MoveTag(t.Context(), release.Move{Tag: ref.Tagged{Repo: w.app.Name(), Tag: "dev"}, To: n})
		if !errors.Is(err, fault.Environment) || written {
			t.Errorf("moving: written %v, %v", written, err)
		}
		if written, err = w.app.TagImmutable(t.Context(), "dev", n); !errors.Is(err, fault.Environment) || written {
			t.Errorf("tagging: written %v, %v", written, err)
		}
	})
}

// The registry takes some of a layer and falls asleep, with its connection open.
func TestB4AnUploadThatFallsAsleepIsBegunAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
		var slept atomic.Bool
		awake := make(chan struct{})
		w := rehearse(t, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.ContentLength > 1<<20 && slept.CompareAndSwap(false, true) {
				_, _ = io.CopyN(io.Discard, req.Body, 1<<20)
				<-awake
				return
			}
			model.ServeHTTP(rw, req)
		}))
		t.Cleanup(func() { close(awake) })
		n := w.publish(t)
		if err := Verify(t.Context(), w.app, n); err != nil {
			t.Error(err)
		}
		if took := time.Since(w.began); took < answerTimeout || took > answerTimeout+10*time.Second {
			t.Errorf("it took %s", took)
		}
		if tags, err := w.app.Tags(t.Context()); len(tags) > 0 || err != nil {
			t.Errorf("tags %v, %v", tags, err)
		}
	})
}

func TestB4ADownloadThatFallsAsleepIsBegunAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
		var slept atomic.Bool
		w := rehearse(t, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
				rw = &sleeper{ResponseWriter: rw, req: req, slept: &slept}
			}
			model.ServeHTTP(rw, req)
		}))
		n := w.publish(t)
		layout, err := OpenLayout(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := Copy(t.Context(), w.app, layout, n); err != nil {
			t.Fatal(err)
		}
		if err := Verify(t.Context(), layout, n); err != nil {
			t.Error(err)
		}
		if took := time.Since(w.began); took < answerTimeout || took > answerTimeout+10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A layer may take long if only it moves.
func TestAnUploadThatIsSlowIsNotAsleep(t *testing.T) {
	inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
		w := rehearse(t, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.ContentLength > 1<<20 {
				req.Body = slow{req.Body}
			}
			model.ServeHTTP(rw, req)
		}))
		w.publish(t)
		if took := time.Since(w.began); took < 2*answerTimeout || w.app.client.Counts().Repeats > 0 {
			t.Errorf("it took %s, %+v", took, w.app.client.Counts())
		}
	})
}

func TestB5WhatGHCRWouldRefuseIsNotSentToIt(t *testing.T) {
	const gigabyte = 1_000_000_000
	for name, test := range map[string]struct {
		host string
		size int64
		slow bool // a megabyte a second, as the first upload shows
		sent bool
	}{
		"more than 10 GB":                     {"ghcr.io", 10*gigabyte + 1, false, false},
		"more than 10 minutes":                {"ghcr.io", gigabyte, true, false},
		"as much as 10 minutes are enough of": {"ghcr.io", gigabyte / 2, true, true},
		"any size to this machine":            {"127.0.0.1", 10*gigabyte + 1, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
				first := rehearsal.Fault{Status: http.StatusCreated} // after the registry has taken all of it
				if test.slow {
					first.Delay = 67 * time.Second
				}
				rules := []rehearsal.Rule{{Method: http.MethodPut, Call: 1, Fault: first}, {Method: http.MethodPost, Call: 2, Fault: rehearsal.Answer(400)}}
				w := rehearseAt(t, test.host, model, rules...)
				src := memory.New()
				if err := w.app.transfer(t.Context(), src, blob(t, src, sample)); err != nil {
					t.Fatal(err)
				}
				before := len(w.Calls())
				large := graph.Node{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("large"), Size: test.size}
				err := w.app.Push(t.Context(), large, strings.NewReader("never read to its end"))
				if sent := len(w.Calls()) > before; sent != test.sent || !sent && (!errors.Is(err, fault.Refused) || fault.HintOf(err) == "") {
					t.Errorf("sent: %v; %v, hint %q", sent, err, fault.HintOf(err))
				}
			})
		})
	}
}

func TestB10TenSecondsOfLagAreWaitedForAndAnHourIsNot(t *testing.T) {
	for name, test := range map[string]struct {
		lag  time.Duration
		want error
		most time.Duration
	}{
		"ten seconds": {10 * time.Second, nil, 40 * time.Second},
		"an hour":     {time.Hour, fault.Unavailable, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
				lagging := &lagging{next: model, written: map[string]time.Time{}}
				w := rehearse(t, lagging)
				n := w.publish(t)
				w.began, lagging.lag = time.Now(), test.lag
				_, err := w.app.TagImmutable(t.Context(), "v1", n)
				if !errors.Is(err, test.want) || time.Since(w.began) > test.most || time.Since(w.began) < 10*time.Second {
					t.Errorf("after %s: %v", time.Since(w.began), err)
				}
				puts := slices.DeleteFunc(w.Calls(), func(c rehearsal.Call) bool { return c.Method != http.MethodPut || !strings.HasSuffix(c.Path, "/v1") })
				if len(puts) != 1 {
					t.Errorf("the tag was written %d times: absence was assumed", len(puts))
				}
			})
		})
	}
}

func TestB13GHCRsBlobsAreNotFollowedToPlainHTTP(t *testing.T) {
	inBubble(t, func(t *testing.T, model *rehearsal.GitHub) {
		w := rehearse(t, model)
		n := w.publish(t)
		model.RedirectBlobs("http://pkg-containers.githubusercontent.com")
		if err := Verify(t.Context(), w.app, n); !errors.Is(err, fault.Environment) || !errors.Is(err, errPlain) {
			t.Errorf("Verify = %v", err)
		}
	})
}

// inBubble runs a test on a model that was begun outside: it has a goroutine that never ends.
func inBubble(t *testing.T, test func(t *testing.T, model *rehearsal.GitHub)) {
	t.Helper()
	model := rehearsal.New(rehearsal.Options{})
	synctest.Test(t, func(t *testing.T) { test(t, model) })
}

// rehearsed is a repository on a handler with rules before it.
type rehearsed struct {
	*rehearsal.Injector
	app   *Repository
	began time.Time
}

func rehearse(t *testing.T, h http.Handler, rules ...rehearsal.Rule) rehearsed {
	t.Helper()
	return rehearseAt(t, "ghcr.io", h, rules...)
}

// rehearseAt serves a handler under the name of a host.
func rehearseAt(t *testing.T, host string, h http.Handler, rules ...rehearsal.Rule) rehearsed {
	t.Helper()
	injector, err := rehearsal.NewInjector(h, rules...)
	if err != nil {
		t.Fatal(err)
	}
	wire := newPipes()
	server := httptest.NewUnstartedServer(injector)
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = wire
	server.Start()
	transport := newTransport(wire.dial, time.Now)
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		server.Close()
	})
	c := newClient(ref.Repo{Host: host, Path: "family"}, Options{Credential: auth.StaticCredential(host, auth.EmptyCredential)}, bare{transport})
	app, err := c.Repo("app")
	if err != nil {
		t.Fatal(err)
	}
	return rehearsed{injector, app, time.Now()}
}

// layerSize is too large for a blob to be read whole.
const layerSize = maxCached + 1<<20

// publish brings an artifact with such a layer.
func (w rehearsed) publish(t *testing.T) graph.Node {
	t.Helper()
	src := memory.New()
	n := artifact(t, src)
	if err := w.app.CopyFrom(t.Context(), src, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func artifact(t *testing.T, s graph.Store) graph.Node {
	t.Helper()
	n, err := graph.PackArtifact(t.Context(), s, "application/vnd.example", []graph.Node{blob(t, s, layerSize)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func blob(t *testing.T, s graph.Store, size int) graph.Node {
	t.Helper()
	n, err := graph.PushBytes(t.Context(), s, ocispec.MediaTypeImageLayer, bytes.Repeat([]byte("blob"), size/4))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pipes are connections in memory: a bubble's clock stands still while it waits for others.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	end   func() // closes done, once
}

func newPipes() pipes {
	done := make(chan struct{})
	return pipes{make(chan net.Conn), done, sync.OnceFunc(func() { close(done) })}
}

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error   { p.end(); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// bare takes the encryption away, below everything that insists on it.
type bare struct{ base http.RoundTripper }

func (b bare) RoundTrip(req *http.Request) (*http.Response, error) {
	plain := req.Clone(req.Context())
	plain.URL.Scheme = "http"
	resp, err := b.base.RoundTrip(plain)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

// sleeper falls asleep in the middle of the first large answer.
type sleeper struct {
	http.ResponseWriter
	req   *http.Request
	slept *atomic.Bool
}

func (s *sleeper) Write(p []byte) (int, error) {
	if s.Header().Get("Content-Length") == fmt.Sprint(layerSize) && s.slept.CompareAndSwap(false, true) {
		_, _ = s.ResponseWriter.Write(p[:len(p)/2])
		_ = http.NewResponseController(s.ResponseWriter).Flush()
		<-s.req.Context().Done() // the client has given up
		return 0, s.req.Context().Err()
	}
	return s.ResponseWriter.Write(p)
}

// slow is a body that takes its time, and never stops.
type slow struct{ io.ReadCloser }

func (s slow) Read(p []byte) (int, error) {
	<-time.After(4 * time.Second)
	return s.ReadCloser.Read(p[:min(len(p), 32<<10)])
}

// lagging shows no manifest before it has been there for some time.
type lagging struct {
	next    http.Handler
	lag     time.Duration
	mu      sync.Mutex
	written map[string]time.Time
}

func (l *lagging) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	l.mu.Lock()
	at, written := l.written[req.URL.Path]
	if req.Method == http.MethodPut && !written {
		l.written[req.URL.Path] = time.Now()
	}
	hidden := written && req.Method != http.MethodPut && time.Since(at) < l.lag
	l.mu.Unlock()
	if hidden {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	l.next.ServeHTTP(w, req)
}
