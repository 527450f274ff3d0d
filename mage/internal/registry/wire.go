package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/ref"
)

// The limits of one HTTP exchange.
const (
	dialTimeout   = 30 * time.Second
	answerTimeout = 5 * time.Minute // without a byte in either direction: a registry hashes a large layer before it answers
	maxRedirects  = 5
	wireBuffer    = 64 << 10 // bytes
)

// newHTTP returns the client every request goes through: repeat what failed in passing, count what
// is sent, refuse plain HTTP beyond this machine.
func newHTTP(base http.RoundTripper, count *meter, w waits, secrets *term.Secrets, now func() time.Time) *http.Client {
	count.base = guard{base, secrets}
	return &http.Client{Transport: newRepeater(count, count, w, now), CheckRedirect: checkRedirect}
}

// dial opens a connection, as net.Dialer does.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

// newTransport returns the connections to registries. Proxies and certificates are the system's.
func newTransport(open dial, now func() time.Time) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := open(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return awake{conn, now}, nil
		},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // a digest is of the bytes on the wire
		WriteBufferSize:       wireBuffer,
		ReadBufferSize:        wireBuffer,
	}
}

// awake is a connection that ends when nothing has passed on it for answerTimeout. A peer that
// falls asleep in the middle of a blob keeps its connection open, and net/http would wait for ever:
// its own limit begins when the request is sent, and ends when the answer begins.
type awake struct {
	net.Conn
	now func() time.Time
}

func (c awake) Read(p []byte) (int, error) {
	if err := c.stir(); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write also gives the reader more time: it waits for an answer while a layer is on its way.
func (c awake) Write(p []byte) (int, error) {
	if err := c.stir(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c awake) stir() error { return c.SetDeadline(c.now().Add(answerTimeout)) }

// checkRedirect bounds redirects and keeps what began encrypted encrypted. Plain HTTP as such is
// checked by guard, on every hop; oras-go takes the Authorization header away when a redirect
// leaves the origin it was made for.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s://%s: %w", req.URL.Scheme, req.URL.Host, errPlain)
	}
	return nil
}

// errPlain refuses what would send bytes or credentials unencrypted.
var errPlain = errors.New("plain HTTP is used for loopback addresses only")

// guard refuses plain HTTP to another machine, also behind a redirect or a token realm, and takes
// away the digest that a server claims: digests are computed from the bytes. It tells what a server was
// shown, which may come back in its words.
type guard struct {
	base    http.RoundTripper
	secrets *term.Secrets
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	g.secrets.Learn(shownBy(req)...)
	if req.URL.Scheme != "https" && !(ref.Repo{Host: req.URL.Host}).Loopback() {
		return nil, fmt.Errorf("%s://%s: %w", req.URL.Scheme, req.URL.Host, errPlain)
	}
	resp, err := g.base.RoundTrip(req)
	if resp != nil {
		resp.Header.Del("Docker-Content-Digest")
	}
	return resp, err
}

// shownBy are the secrets in a request: a bearer token, or a password in both its forms.
func shownBy(req *http.Request) []string {
	_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	_, password, _ := req.BasicAuth()
	return []string{token, password}
}

// Counts says how many requests went over the wire, repeated ones included, and what waiting cost.
type Counts struct {
	Reads    int            `json:"reads"`     // GET and HEAD
	Writes   int            `json:"writes"`    // everything else below /v2/
	Calls    map[string]int `json:"calls"`     // "PUT manifests" → how many
	Repeats  int            `json:"repeats"`   // of these, sent again because the registry was busy or ill
	WaitedMS int64          `json:"waited_ms"` // milliseconds of pauses, summed over requests
}

// meter counts requests by method and endpoint, repetitions, pauses, and the speed of uploads.
type meter struct {
	base http.RoundTripper

	mu      sync.Mutex
	calls   map[string]int
	repeats int
	waited  time.Duration
	rate    float64 // of the fastest large upload, in bytes per second
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.calls[req.Method+" "+endpoint(req.URL)]++
	m.mu.Unlock()
	return m.base.RoundTrip(req)
}

func (m *meter) repeat() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repeats++
}

func (m *meter) wait(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waited += d
}

func (m *meter) counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Counts{Calls: maps.Clone(m.calls), Repeats: m.repeats, WaitedMS: m.waited.Milliseconds()}
	for call, n := range m.calls {
		switch method, where, _ := strings.Cut(call, " "); {
		case method == http.MethodGet || method == http.MethodHead:
			c.Reads += n
		case where != other:
			c.Writes += n
		}
	}
	return c
}

// other is the endpoint of requests that are not of the distribution API: tokens, redirects.
const other = "other"

// endpoint names the part of the distribution API that a URL belongs to.
func endpoint(u *url.URL) string {
	where, _ := route(u)
	return where
}

// route splits a URL into endpoint and repository; the repository is empty where none is named.
func route(u *url.URL) (where, repository string) {
	path, ok := strings.CutPrefix(u.Path, "/v2/")
	if !ok {
		return other, ""
	}
	for _, part := range []string{"blobs/uploads", "blobs", "manifests", "referrers", "tags"} {
		if name, _, ok := strings.Cut(path, "/"+part+"/"); ok {
			return part, name
		}
	}
	return "base", ""
}
