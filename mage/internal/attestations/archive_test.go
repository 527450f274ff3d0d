package attestations_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/attestations"
	"github.com/containai/containai/mage/rehearsal"
)

const ourToken = "ghs_ours"

// kept is a model of GitHub behind rules, with an archive of one of its repositories.
type kept struct {
	*attestations.Archive
	injector *rehearsal.Injector
	posts    *int
}

func newKept(t *testing.T, token string, o rehearsal.Options, rules ...rehearsal.Rule) kept {
	t.Helper()
	o.Tokens = append(o.Tokens,
		rehearsal.Token{Secret: ourToken, Repository: "acme/widget", Scopes: []string{"attestations:write"}},
		rehearsal.Token{Secret: "ghs_reads", Repository: "acme/widget", Scopes: []string{"read:packages"}})
	injector, err := rehearsal.NewInjector(rehearsal.New(o), rules...)
	if err != nil {
		t.Fatal(err)
	}
	k := kept{injector: injector, posts: new(int)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			*k.posts++
		}
		injector.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	k.Archive = archive(t, server.URL, token)
	return k
}

func archive(t *testing.T, api, token string) *attestations.Archive {
	t.Helper()
	a, err := attestations.NewArchive(api, repository, token, attestations.Options{Pause: time.Microsecond, Patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// said is an answer of GitHub's, with headers as "Name: value".
func said(status int, body string, headers ...string) rehearsal.Fault {
	f := rehearsal.Fault{Status: status, Body: body, Header: http.Header{}}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		f.Header.Set(name, value)
	}
	return f
}

// signed is a bundle about the subject whose signature has this text.
func signed(signature string) []byte {
	b := stored("https://slsa.dev/provenance/v1")
	return []byte(strings.TrimSuffix(b, "}}") + fmt.Sprintf(`,"signatures":[{"sig":%q}]}}`, base64.StdEncoding.EncodeToString([]byte(signature))))
}

func TestWhatGitHubHasIsNotStoredAgain(t *testing.T) {
	for name, o := range map[string]rehearsal.Options{"in the list": {}, "kept apart": {BundlesApart: true}} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, ourToken, o)
			if n, err := k.Store(t.Context(), subject, [][]byte{signed("a")}); n != 1 || err != nil {
				t.Fatalf("Store = %d, %v", n, err)
			}
			both := [][]byte{[]byte(strings.ReplaceAll(string(signed("a")), ":", ": ")), signed("b")}
			if lacks, err := k.Lacking(t.Context(), subject, both); len(lacks) != 1 || string(lacks[0]) != string(both[1]) || err != nil {
				t.Errorf("Lacking = %q, %v", lacks, err)
			}
			for range 2 {
				if _, err := k.Store(t.Context(), subject, both); err != nil {
					t.Fatal(err)
				}
			}
			if *k.posts != 2 {
				t.Errorf("%d bundles were sent, want 2", *k.posts)
			}
			if got, err := k.Bundles(t.Context(), subject); len(got) != 2 || err != nil {
				t.Errorf("GitHub keeps %d, %v", len(got), err)
			}
		})
	}
}

// B3: whichever call fails, and also when its answer alone is lost, each bundle is stored once.
func TestB3EveryCallToTheArchiveMayFailOnce(t *testing.T) {
	for name, fail := range map[string]rehearsal.Fault{
		"500":                   said(http.StatusInternalServerError, ""),
		"a lost answer":         rehearsal.LoseAnswer(),
		"a rate limit":          said(http.StatusTooManyRequests, `{"message":"slow down"}`, "Retry-After: 0"),
		"a secondary limit":     said(http.StatusForbidden, `{"message":"You have exceeded a secondary rate limit"}`),
		"a limit until a clock": said(http.StatusForbidden, `{}`, "x-ratelimit-remaining: 0", "x-ratelimit-reset: 1"),
	} {
		for call := 1; call <= 3; call++ {
			t.Run(fmt.Sprint(name, " at call ", call), func(t *testing.T) {
				k := newKept(t, ourToken, rehearsal.Options{}, rehearsal.Rule{Call: call, Fault: fail})
				if _, err := k.Store(t.Context(), subject, [][]byte{signed("a"), signed("b")}); err != nil {
					t.Fatal(err)
				}
				if got, err := k.Bundles(t.Context(), subject); len(got) != 2 || err != nil {
					t.Errorf("GitHub keeps %d, %v; want 2", len(got), err)
				}
			})
		}
	}
}

func TestWhatGitHubDoesNotStore(t *testing.T) {
	always := func(a rehearsal.Fault) []rehearsal.Rule { return []rehearsal.Rule{{Method: "POST", Fault: a}} }
	for name, c := range map[string]struct {
		token string
		o     rehearsal.Options
		rules []rehearsal.Rule
		want  fault.Kind
		posts int
	}{
		"without attestations: write": {token: "ghs_reads", want: fault.Environment, posts: 1},
		"of a private repository":     {token: ourToken, o: rehearsal.Options{Private: []string{"acme/widget"}}, want: fault.Environment, posts: 1},
		"with a token that has ended": {token: "ghs_old", want: fault.Environment},
		"a bundle that it does not":   {token: ourToken, rules: always(said(http.StatusUnprocessableEntity, `{"message":"values do not match"}`)), want: fault.Invalid, posts: 1},
		"a bundle that is too large":  {token: ourToken, rules: always(said(http.StatusRequestEntityTooLarge, "")), want: fault.Invalid, posts: 1},
		"in a repository that moved":  {token: ourToken, rules: always(said(http.StatusMovedPermanently, "", "Location: /repositories/1/attestations")), want: fault.Environment, posts: 1},
		"while it is down":            {token: ourToken, rules: always(said(http.StatusServiceUnavailable, "")), want: fault.Unavailable, posts: 5},
		"before a limit that is far":  {token: ourToken, rules: always(said(http.StatusTooManyRequests, "", "Retry-After: 3600")), want: fault.Unavailable, posts: 1},
		"when it answers a long page": {token: ourToken, rules: always(said(http.StatusBadGateway, strings.Repeat("x", 1<<20))), want: fault.Unavailable, posts: 5},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, c.token, c.o, c.rules...)
			n, err := k.Store(t.Context(), subject, [][]byte{signed("a")})
			if kind, _ := fault.KindOf(err); kind != c.want || n != 0 || *k.posts != c.posts {
				t.Errorf("Store = %d, %v (%v) after %d posts; want %v after %d", n, err, kind, *k.posts, c.want, c.posts)
			}
			if kind, _ := fault.KindOf(err); kind == fault.Environment && !strings.Contains(fault.HintOf(err), "attestations: write") {
				t.Errorf("the hint is %q", fault.HintOf(err))
			}
		})
	}
}

// F1: the token is shown to the API, not to where bundles are kept, and no error repeats it.
func TestF1TheTokenIsShownToTheAPIAlone(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the storage was shown the token")
		}
		_, _ = w.Write(signed("a"))
	}))
	defer elsewhere.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+ourToken {
			t.Errorf("%s %s came with %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		fmt.Fprintf(w, `{"attestations":[{"bundle_url":"%s/1"}]}`, elsewhere.URL)
	}))
	defer api.Close()
	if lacks, err := archive(t, api.URL, ourToken).Lacking(t.Context(), subject, [][]byte{signed("a")}); len(lacks) != 0 || err != nil {
		t.Errorf("Lacking = %d, %v", len(lacks), err)
	}
}

func TestStoringEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			cancel()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			return
		}
		http.NotFound(w, r)
	}))
	defer server.Close()
	if _, err := archive(t, server.URL, ourToken).Store(ctx, digest.FromString("x"), [][]byte{signed("a")}); !errors.Is(err, fault.Interrupted) {
		t.Errorf("Store = %v, want Interrupted", err)
	}
}
