package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// B13: credentials are for the host that asked for them. These are two real servers with TLS; a
// third listens without.
func TestB13ARedirectNeverCarriesCredentialsToAnotherHost(t *testing.T) {
	var stolen atomic.Pointer[string]
	note := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen := req.Header.Get("Authorization")
		stolen.Store(&seen)
	})
	storage, plain := httptest.NewTLSServer(note), httptest.NewServer(note)
	t.Cleanup(storage.Close)
	t.Cleanup(plain.Close)
	tests := []struct {
		name, to string
		want     string // part of the error; empty is none
	}{
		{"to another host", storage.URL + "/blob", ""},
		{"back to itself and out again", "/bounce?to=" + storage.URL + "/blob", ""},
		{"from https to http", plain.URL + "/blob", "redirect from https"},
		{"to plain HTTP elsewhere", "http://registry.invalid/blob", "redirect from https"},
		{"in a circle", "/v2/owner/app/blobs/sha256:00", "redirects"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stolen.Store(nil)
			var trusted atomic.Int32
			home := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Header.Get("Authorization") == "" {
					w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				trusted.Add(1)
				to := test.to
				if req.URL.Path == "/bounce" {
					to = req.URL.Query().Get("to")
				}
				http.Redirect(w, req, to, http.StatusTemporaryRedirect)
			}))
			t.Cleanup(home.Close)
			host := strings.TrimPrefix(home.URL, "https://")
			err := ask(t.Context(), home, host)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("err = %v, want %q", err, test.want)
			}
			if strings.HasPrefix(test.want, "redirect from") && !errors.Is(err, errPlain) {
				t.Errorf("%v is not about plain HTTP", err)
			}
			got := stolen.Load()
			if got != nil && *got != "" {
				t.Errorf("the other host was given %q", *got)
			}
			if (got != nil) != (test.want == "") || trusted.Load() == 0 || trusted.Load() > maxRedirects {
				t.Errorf("the other host was asked: %v; this one %d times with credentials", got != nil, trusted.Load())
			}
		})
	}
}

// ask reads a blob, logged in, through the layers that every request goes through.
func ask(ctx context.Context, trusted *httptest.Server, host string) error {
	transport := newTransport(new(net.Dialer).DialContext, time.Now)
	transport.TLSClientConfig = trusted.Client().Transport.(*http.Transport).TLSClientConfig
	defer transport.CloseIdleConnections()
	count := &meter{calls: map[string]int{}}
	login := &auth.Client{
		Client:     newHTTP(transport, count, newWaits(time.Millisecond, 0), nil, time.Now),
		Credential: auth.StaticCredential(host, auth.Credential{Username: "me", Password: "secret"}),
		Cache:      auth.NewCache(),
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/v2/owner/app/blobs/sha256:00", nil)
	if err != nil {
		return err
	}
	resp, err := login.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
