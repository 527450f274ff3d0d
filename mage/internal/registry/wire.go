package registry

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/containai/containai/mage/ref"
)

// The limits of one HTTP exchange.
const (
	dialTimeout   = 30 * time.Second
	answerTimeout = 5 * time.Minute // from the last byte sent: a registry hashes a large layer before it answers
	maxRedirects  = 5
	maxRetries    = 4
	maxRetryWait  = 30 * time.Second
	wireBuffer    = 64 << 10 // bytes
)

// newHTTP returns the client every request goes through: repeat what failed in passing, count what is
// sent, refuse plain HTTP beyond this machine.
func newHTTP(count *meter, pause time.Duration) *http.Client {
	count.base = guard{&http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // a digest is of the bytes on the wire
		WriteBufferSize:       wireBuffer,
		ReadBufferSize:        wireBuffer,
	}}
	policy := &retry.GenericPolicy{
		Retryable: transient,
		Backoff:   retry.ExponentialBackoff(pause, 2, 0.5),
		MaxWait:   maxRetryWait,
		MaxRetry:  maxRetries,
	}
	return &http.Client{
		Transport:     &retry.Transport{Base: count, Policy: func() retry.Policy { return policy }},
		CheckRedirect: checkRedirect,
	}
}

// transient says what is worth repeating. A full disk (507) and a missing feature (501) stay so.
func transient(resp *http.Response, err error) (bool, error) {
	if resp != nil && (resp.StatusCode == http.StatusInsufficientStorage || resp.StatusCode == http.StatusNotImplemented) {
		return false, nil
	}
	return retry.DefaultPredicate(resp, err)
}

// checkRedirect bounds redirects. The scheme is checked by guard, on every hop; oras-go keeps the
// Authorization header on the origin it was made for.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}

// errPlain refuses what would send bytes or credentials unencrypted.
var errPlain = errors.New("plain HTTP is used for loopback addresses only")

// guard refuses plain HTTP to another machine, also behind a redirect or a token realm, and takes
// away the digest that a server claims: digests are computed from the bytes.
type guard struct{ base http.RoundTripper }

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !(ref.Repo{Host: req.URL.Host}).Loopback() {
		return nil, fmt.Errorf("%s://%s: %w", req.URL.Scheme, req.URL.Host, errPlain)
	}
	resp, err := g.base.RoundTrip(req)
	if resp != nil {
		resp.Header.Del("Docker-Content-Digest")
	}
	return resp, err
}

// Counts says how many requests went over the wire, repeated ones included.
type Counts struct {
	Reads  int            `json:"reads"`  // GET and HEAD
	Writes int            `json:"writes"` // everything else below /v2/
	Calls  map[string]int `json:"calls"`  // "PUT manifests" → how many
}

// meter counts requests by method and endpoint.
type meter struct {
	base  http.RoundTripper
	mu    sync.Mutex
	calls map[string]int
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.calls[req.Method+" "+endpoint(req.URL)]++
	m.mu.Unlock()
	return m.base.RoundTrip(req)
}

func (m *meter) counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Counts{Calls: maps.Clone(m.calls)}
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
	if !strings.HasPrefix(u.Path, "/v2/") {
		return other
	}
	for _, part := range []string{"blobs/uploads", "blobs", "manifests", "referrers", "tags"} {
		if strings.Contains(u.Path, "/"+part+"/") {
			return part
		}
	}
	return "base"
}
