package rehearsal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/rehearsal"
)

// counter answers "hello, world" and adds up the bytes that reached it.
type counter struct {
	mu    sync.Mutex
	calls int
	body  string
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	content, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.body += string(content)
	io.WriteString(w, "hello, world")
}

func (c *counter) reached() (calls int, body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.body
}

// disturbed is a world whose calls go through rules to a counter.
func disturbed(t *testing.T, rules ...rehearsal.Rule) (*world, *counter, *rehearsal.Injector) {
	t.Helper()
	c := &counter{}
	j, err := rehearsal.NewInjector(c, rules...)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(j)
	t.Cleanup(server.Close)
	return &world{t: t, url: server.URL}, c, j
}

func TestAFaultDoesWhatItSays(t *testing.T) {
	for name, test := range map[string]struct {
		fault   rehearsal.Fault
		status  int    // that the client sees; 0: none
		body    string // that the client sees
		err     error
		reached int // calls that took effect
	}{
		"an answer instead":              {rehearsal.Answer(503), 503, "Service Unavailable", nil, 0},
		"an answer after the effect":     {rehearsal.Fault{Status: 500, After: true, Body: "lost"}, 500, "lost", nil, 1},
		"a reset":                        {rehearsal.HangUp(), 0, "", syscall.ECONNRESET, 0},
		"a reset in mid-upload":          {rehearsal.CutUpload(3), 0, "", syscall.ECONNRESET, 0},
		"a lost answer":                  {rehearsal.LoseAnswer(), 0, "", syscall.ECONNRESET, 1},
		"a truncated answer":             {rehearsal.CutAnswer(5), 200, "hello", io.ErrUnexpectedEOF, 1},
		"an answer too short to be cut":  {rehearsal.CutAnswer(99), 0, "", syscall.ECONNRESET, 1},
		"a rate limit in the body":       {rehearsal.RateLimited(), 429, "retry-after: 10.305464ms, allowed: 2000/minute", nil, 0},
		"a rate limit of readers":        {rehearsal.RateLimitedPull(), 429, "retry-after: 35.852µs, allowed: 44000/minute", nil, 0},
		"a rate limit in a 403":          {rehearsal.SecondaryLimited(), 403, "You have exceeded a secondary rate limit", nil, 0},
		"a denial in a 403":              {rehearsal.Denied(), 403, "does not match expected scopes", nil, 0},
		"a blob that passes for unknown": {rehearsal.UnknownBlob(), 404, "unknown blob", nil, 0},
		"a death before the effect":      {rehearsal.Fault{Kill: func() {}}, 0, "", syscall.ECONNRESET, 0},
		"a death after the effect":       {rehearsal.Fault{Kill: func() {}, After: true}, 0, "", syscall.ECONNRESET, 1},
		"a delay":                        {rehearsal.Fault{Delay: time.Nanosecond}, 200, "hello, world", nil, 1},
		"staleness of what never moved":  {rehearsal.Outdated(), 200, "hello, world", nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, c, j := disturbed(t, rehearsal.Rule{Fault: test.fault})
			got, err := w.try("POST", "/a", "some text")
			if test.err == nil && err != nil || test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("error = %v, want %v", err, test.err)
			}
			if got.status != test.status || !strings.Contains(got.body, test.body) {
				t.Errorf("answered %d %q, want %d %q", got.status, got.body, test.status, test.body)
			}
			if calls, _ := c.reached(); calls != test.reached || j.Fired()[0] != 1 {
				t.Errorf("%d calls took effect and %d were disturbed, want %d and 1", calls, j.Fired()[0], test.reached)
			}
		})
	}
}

func TestARuleChoosesItsCalls(t *testing.T) {
	for name, test := range map[string]struct {
		rule rehearsal.Rule
		want []int
	}{
		"every call":                {rehearsal.Rule{}, []int{503, 503, 503, 503}},
		"the second one":            {rehearsal.Rule{Call: 2}, []int{200, 503, 200, 200}},
		"a method":                  {rehearsal.Rule{Method: "PUT"}, []int{200, 503, 200, 503}},
		"the second of a method":    {rehearsal.Rule{Method: "PUT", Call: 2}, []int{200, 200, 200, 503}},
		"a path":                    {rehearsal.Rule{Path: "^/b$"}, []int{200, 200, 503, 503}},
		"a part of a path":          {rehearsal.Rule{Path: "[ab]"}, []int{503, 503, 503, 503}},
		"a call that does not come": {rehearsal.Rule{Path: "b", Call: 3}, []int{200, 200, 200, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			test.rule.Fault = rehearsal.Answer(503)
			w, _, j := disturbed(t, test.rule)
			var got []int
			for _, call := range []string{"GET /a", "PUT /a", "GET /b", "PUT /b"} {
				method, path, _ := strings.Cut(call, " ")
				got = append(got, w.request(method, path+"?q=1", "").status)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("answers %v, want %v", got, test.want)
			}
			if calls := fmt.Sprint(j.Calls()); calls != "[GET /a?q=1 PUT /a?q=1 GET /b?q=1 PUT /b?q=1]" {
				t.Errorf("Calls = %s", calls)
			}
		})
	}
}

func TestTheFirstRuleOfSeveralWinsAndAllOfThemCount(t *testing.T) {
	w, _, j := disturbed(t,
		rehearsal.Rule{Call: 1, Fault: rehearsal.Answer(501)},
		rehearsal.Rule{Fault: rehearsal.Answer(502)},
		rehearsal.Rule{Call: 3, Fault: rehearsal.Answer(503)})
	for _, want := range []int{501, 502, 502} {
		w.request("GET", "/", "").wants(t, want, "")
	}
	if fired := j.Fired(); !slices.Equal(fired, []int{1, 2, 0}) {
		t.Errorf("Fired = %v", fired)
	}
}

func TestARetryAfterIsInWholeSeconds(t *testing.T) { // fault row B1
	w, _, _ := disturbed(t, rehearsal.Rule{Fault: rehearsal.RetryAfter(time.Minute)})
	if got := w.request("GET", "/", "").wants(t, 429, "TOOMANYREQUESTS").header.Get("Retry-After"); got != "60" {
		t.Errorf("Retry-After = %q, want 60", got)
	}
}

func TestADelayIsWaitedOrGivenUpByTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		j, err := rehearsal.NewInjector(c, rehearsal.Rule{Fault: rehearsal.Fault{Delay: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		got := httptest.NewRecorder()
		j.ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
		if time.Since(began) != time.Hour || got.Body.String() != "hello, world" {
			t.Errorf("after %v: %q", time.Since(began), got.Body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		j.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		if c.calls != 1 || time.Since(began) != time.Hour+time.Minute {
			t.Errorf("%d calls took effect after %v; the second client gave up", c.calls, time.Since(began))
		}
	})
}

func TestAKillHappensInTheCall(t *testing.T) {
	var killed atomic.Int64
	w, c, _ := disturbed(t, rehearsal.Rule{Fault: rehearsal.Fault{After: true, Kill: func() { killed.Add(1) }}})
	_, err := w.try("PUT", "/a", "x")
	if _, body := c.reached(); err == nil || killed.Load() != 1 || body != "x" {
		t.Errorf("error %v, killed %d times, %q took effect", err, killed.Load(), body)
	}
}

func TestAStaleReadSeesWhatWasThereBeforeTheLastWrite(t *testing.T) { // fault row A8
	g := rehearsal.New(rehearsal.Options{})
	j, err := rehearsal.NewInjector(g, rehearsal.Rule{Method: "GET", Path: "/manifests/dev$", Call: 2, Fault: rehearsal.Outdated()},
		rehearsal.Rule{Method: "HEAD", Fault: rehearsal.Outdated()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(j)
	t.Cleanup(server.Close)
	w := &world{t: t, github: g, url: server.URL}
	w.push("acme/base", "dev", "old")
	w.push("acme/base", "dev", "new")
	w.manifest("acme/base", "dev").wants(t, 200, "new")
	w.manifest("acme/base", "dev").wants(t, 200, "old")
	w.manifest("acme/base", "dev").wants(t, 200, "new")
	w.push("acme/base", "prod", "new")
	w.request("HEAD", "/v2/acme/base/manifests/prod", "").wants(t, 404, "")
	for _, c := range j.Calls() {
		if c.Method == http.MethodGet && strings.HasSuffix(c.Path, "/prod") {
			t.Errorf("the injector counts its own look: %s", c)
		}
	}
}

func TestRulesThatContradictThemselvesAreRefused(t *testing.T) {
	for name, rule := range map[string]rehearsal.Rule{
		"a path that does not compile":   {Path: "(", Fault: rehearsal.HangUp()},
		"a call before the first":        {Call: -1, Fault: rehearsal.HangUp()},
		"a fault that does nothing":      {},
		"a status and a reset":           {Fault: rehearsal.Fault{Status: 503, Reset: true}},
		"a status and a truncation":      {Fault: rehearsal.Fault{Status: 503, Truncate: 1}},
		"a reset and a stale answer":     {Fault: rehearsal.Fault{Reset: true, Stale: true}},
		"a death and a reset":            {Fault: rehearsal.Fault{Reset: true, Kill: func() {}}},
		"a body without a status":        {Fault: rehearsal.Fault{Reset: true, Body: "x"}},
		"a header without a status":      {Fault: rehearsal.Fault{Reset: true, Header: http.Header{}}},
		"a status that is not final":     {Fault: rehearsal.Answer(100)},
		"a status of no class":           {Fault: rehearsal.Answer(600)},
		"bytes taken without a reset":    {Fault: rehearsal.Fault{Status: 503, ReadBody: 1}},
		"bytes taken and a whole effect": {Fault: rehearsal.Fault{Reset: true, ReadBody: 1, After: true}},
		"after, and then nothing":        {Fault: rehearsal.Fault{After: true, Delay: 1}},
		"a truncation after":             {Fault: rehearsal.Fault{Truncate: 1, After: true}},
		"a negative truncation":          {Fault: rehearsal.CutAnswer(-1)},
		"a negative delay":               {Fault: rehearsal.Fault{Delay: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := rehearsal.NewInjector(&counter{}, rule); !errors.Is(err, fault.Invalid) {
				t.Errorf("error = %v, want Invalid", err)
			}
		})
	}
}
