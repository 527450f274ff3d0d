package attestations_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/attestations"
	"github.com/containai/containai/mage/rehearsal"
)

const repository = "https://github.com/acme/widget"

var subject = digest.FromString("a manifest")

// stored is a bundle as the model takes it.
func stored(predicateType string) string {
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q}`, subject.Encoded(), predicateType)
	return fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"dsseEnvelope":{"payload":%q}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
}

func TestBundlesOfARepositoryAreRead(t *testing.T) {
	for name, o := range map[string]rehearsal.Options{"in the list": {}, "kept apart": {BundlesApart: true}} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(rehearsal.New(o))
			defer server.Close()
			want := []string{stored("https://slsa.dev/provenance/v1"), stored("https://cyclonedx.org/bom")}
			for _, b := range want {
				resp, err := http.Post(server.URL+"/repos/acme/widget/attestations", "application/json", strings.NewReader(`{"bundle":`+b+`}`))
				if err != nil || resp.StatusCode != http.StatusCreated {
					t.Fatal(resp, err)
				}
				resp.Body.Close()
			}
			c := open(t, server.URL)
			got, err := c.Bundles(t.Context(), subject)
			if err != nil || len(got) != 2 || !slices.Contains(want, string(got[0])) || !slices.Contains(want, string(got[1])) || bytes.Equal(got[0], got[1]) {
				t.Errorf("Bundles = %q, %v", got, err)
			}
			if got, err := c.Bundles(t.Context(), digest.FromString("another")); len(got) != 0 || err != nil {
				t.Errorf("Bundles of nothing = %q, %v", got, err)
			}
		})
	}
}

func open(t *testing.T, api string) *attestations.Client {
	t.Helper()
	c, err := attestations.New(api, repository)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPagesAreFollowed(t *testing.T) {
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("after") == "" {
			w.Header().Set("Link", "<"+server.URL+r.URL.Path+`?after=x>; rel="next", <`+server.URL+`>; rel="first"`)
		}
		_, _ = io.WriteString(w, `{"attestations":[{"bundle":{}}]}`)
	}))
	defer server.Close()
	if got, err := open(t, server.URL).Bundles(t.Context(), subject); len(got) != 2 || err != nil {
		t.Errorf("Bundles = %q, %v", got, err)
	}
}

// endless is a body without end.
func endless(w http.ResponseWriter, _ *http.Request) {
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// slow sends a byte and then nothing until the client leaves.
func slow(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "{")
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func answer(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, content) }
}

func TestWhatAHostileAPIAnswers(t *testing.T) {
	apart := func(content []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/repos/") {
				fmt.Fprintf(w, `{"attestations":[{"bundle":null,"bundle_url":"http://%s/bundle?sig=secret"}]}`, r.Host)
				return
			}
			_, _ = w.Write(content)
		}
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  fault.Kind
	}{
		"D11 a list without end":       {endless, fault.Refused},
		"D11 a list that stops coming": {slow, fault.Unavailable},
		"D11 a flood of bundles":       {answer(`{"attestations":[` + strings.Repeat(`{"bundle":{}},`, 5000) + `{"bundle":{}}]}`), fault.Refused},
		"D11 pages without end": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "<http://"+r.Host+r.URL.Path+`?after=x>; rel="next"`)
			_, _ = io.WriteString(w, `{"attestations":[]}`)
		}, fault.Refused},
		"D11 nested a million deep":        {answer(strings.Repeat("[", 1<<20)), fault.Unavailable},
		"D11 a bundle that grows to 4 GiB": {apart([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}), fault.Refused},
		"a bundle that is not compressed":  {apart([]byte("\x05x")), fault.Unavailable},
		"a bundle that is empty":           {apart(nil), fault.Unavailable},
		"no JSON":                          {answer("<!DOCTYPE html>"), fault.Unavailable},
		"a next page elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<http://127.0.0.1:1/>; rel="next"`)
			_, _ = io.WriteString(w, `{"attestations":[]}`)
		}, fault.Unavailable},
		"a bundle on another machine without encryption": {answer(`{"attestations":[{"bundle_url":"http://169.254.169.254/latest"}]}`), fault.Unavailable},
		"a bundle nowhere": {answer(`{"attestations":[{}]}`), fault.Unavailable},
		"a redirect that leaves encryption": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, fault.Unavailable},
		"a rate limit": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, fault.Unavailable},
		"an error":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.serve)
			defer server.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if name == "D11 a list that stops coming" {
				ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
			}
			got, err := open(t, server.URL).Bundles(ctx, subject)
			if kind, _ := fault.KindOf(err); kind != c.want || got != nil {
				t.Errorf("%d bundles, %v (%v), want %v", len(got), err, kind, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the signed address is told: %v", err)
			}
		})
	}
}

func TestACompressedBundleIsReadBack(t *testing.T) {
	want := stored("https://slsa.dev/provenance/v1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/b" {
			if r.Header.Get("Accept") != "" {
				t.Error("the storage is asked as if it were GitHub")
			}
			_, _ = w.Write(snappy.Encode(nil, []byte(want)))
			return
		}
		fmt.Fprintf(w, `{"attestations":[{"bundle":null,"bundle_url":"http://%s/b"}]}`, r.Host)
	}))
	defer server.Close()
	if got, err := open(t, server.URL).Bundles(t.Context(), subject); err != nil || len(got) != 1 || string(got[0]) != want {
		t.Errorf("Bundles = %q, %v", got, err)
	}
}

func TestOnlyGitHubsRepositoriesHaveAttestations(t *testing.T) {
	for _, c := range [][2]string{
		{"https://api.github.com", "https://gitlab.com/acme/widget"},
		{"https://api.github.com", "https://github.com/acme"},
		{"https://api.github.com", "https://github.com/acme/widget/../../x"},
		{"http://api.github.com", repository},
		{"file:///etc", repository},
	} {
		if _, err := attestations.New(c[0], c[1]); !errors.Is(err, fault.Invalid) {
			t.Errorf("New(%q, %q) = %v, want Invalid", c[0], c[1], err)
		}
	}
}

func FuzzBundles(f *testing.F) {
	f.Add([]byte(`{"attestations":[{"bundle":{}}]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }))
		defer server.Close()
		c, err := attestations.New(server.URL, repository)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Bundles(t.Context(), subject)
		if _, classified := fault.KindOf(err); err != nil && (!classified || got != nil) {
			t.Errorf("%q with %v", got, err)
		}
	})
}
