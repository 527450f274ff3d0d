// Package ghcr speaks GitHub's Packages REST API, which alone can list, delete and restore what
// lies in GHCR: the registry itself has no way to.
//
// A [Client] is for the packages of one owner; a [Shelf] is one package, whose versions are the
// manifests of a repository. Invariant: a list is complete or an error, a call that could not be
// judged is an error, and nothing is sent after the hour's calls are nearly spent.
package ghcr

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Options are the optional parts of a client.
type Options struct {
	API       string // base URL of the REST API; empty means https://api.github.com
	UserAgent string // empty means "containai"
	// Token returns the token to send: a classic personal access token or a workflow's
	// GITHUB_TOKEN. Nil sends none.
	Token    func(ctx context.Context) (string, error)
	Pause    time.Duration // unit of every wait; zero means 1 s
	Patience time.Duration // longest wait for a limit that passes; zero means 120 pauses
}

// Client calls the Packages API for one owner. It is safe for concurrent use.
type Client struct {
	api     string
	owner   string
	options Options
	http    *http.Client

	mu     sync.Mutex
	form   string // orgs or users, once a package was found
	budget budget
	calls  int
}

// budget is what the last answer said of the hour's calls.
type budget struct {
	known       bool
	limit, left int
	reset       time.Time
}

// The limits of one exchange. GitHub takes 180 deletions a minute: 5 points each, of 900
// (https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api).
const (
	maxBody       = 8 << 20 // bytes
	attempts      = 5
	answerTimeout = 2 * time.Minute
	reserve       = 10 // one part in so many of the hour's calls is left to the repository's other jobs
)

// New returns a client for an owner's packages. It sends nothing.
func New(owner string, o Options) (*Client, error) {
	if o.API == "" {
		o.API = "https://api.github.com"
	}
	if o.UserAgent == "" {
		o.UserAgent = "containai"
	}
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 120 * o.Pause
	}
	u, err := url.Parse(o.API)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return nil, fault.New(fault.Invalid, "reading", o.API, "it is no https URL of a REST API").WithHint("correct GITHUB_API_URL, or unset it")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = answerTimeout
	transport.MaxIdleConnsPerHost = parallel
	return &Client{api: strings.TrimSuffix(o.API, "/"), owner: owner, options: o, http: &http.Client{Transport: transport}}, nil
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// Calls returns how many requests were sent so far.
func (c *Client) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// answer is an answer that was read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call sends a request until it has an answer that stands. Limits that pass are waited for; the
// hour's limit is an error that says when it ends.
func (c *Client) call(ctx context.Context, method, path string) (answer, error) {
	if err := c.afford(ctx, method); err != nil {
		return answer{}, err
	}
	var last error
	for attempt := range attempts {
		a, err := c.send(ctx, method, path)
		wait := c.options.Pause << attempt
		switch {
		case ctx.Err() != nil:
			return answer{}, fault.Wrap(ctx.Err(), fault.Interrupted, "calling", c.api)
		case err != nil:
			last = withoutQuery(err)
		case a.spent():
			return answer{}, c.exhausted()
		case a.limited():
			last, wait = a.err(), max(wait, a.asked(c.options.Pause))
		case a.status >= http.StatusInternalServerError:
			last = a.err()
		default:
			return a, nil
		}
		if wait > c.options.Patience || attempt == attempts-1 {
			break
		}
		if err := sleep(ctx, wait); err != nil {
			return answer{}, fault.Wrap(err, fault.Interrupted, "calling", c.api)
		}
	}
	return answer{}, fault.Wrap(last, fault.Unavailable, "calling", method+" "+path)
}

// withoutQuery is an error of http.Client without its URL.
func withoutQuery(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// afford refuses writes that the hour's calls no longer cover, and spaces them: a third of a pause
// before each.
func (c *Client) afford(ctx context.Context, method string) error {
	if method == http.MethodGet {
		return nil
	}
	c.mu.Lock()
	short := c.budget.known && c.budget.left*reserve <= c.budget.limit
	c.mu.Unlock()
	if short {
		return c.exhausted()
	}
	return sleep(ctx, c.options.Pause/3)
}

// exhausted is the error of an hour whose calls are used up.
func (c *Client) exhausted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return (&fault.Error{Op: "calling", Subject: c.api, Kind: fault.Unavailable,
		Err: fmt.Errorf("%w: %d of %d calls are left until %s", ErrBudget, c.budget.left, c.budget.limit, c.budget.reset.UTC().Format(time.RFC3339))}).
		WithHint("run the same command again after that: it goes on where it stopped")
}

// ErrBudget is an hour whose calls to the REST API are used up.
var ErrBudget = errors.New("the hour's calls are spent")

func (c *Client) send(ctx context.Context, method, path string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.api+path, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	req.Header.Set("User-Agent", c.options.UserAgent)
	if c.options.Token != nil {
		token, err := c.options.Token(ctx)
		if err != nil {
			return answer{}, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
	}
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fault.New(fault.Refused, "calling", path, "the answer exceeds %d bytes", maxBody)
	}
	if err != nil {
		return answer{}, err
	}
	c.learn(resp.Header)
	return answer{resp.StatusCode, resp.Header, body}, nil
}

// learn notes what an answer says of the budget.
func (c *Client) learn(h http.Header) {
	limit, err := strconv.Atoi(h.Get("x-ratelimit-limit"))
	left, err2 := strconv.Atoi(h.Get("x-ratelimit-remaining"))
	reset, err3 := strconv.ParseInt(h.Get("x-ratelimit-reset"), 10, 64)
	if errors.Join(err, err2, err3) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget = budget{true, limit, left, time.Unix(reset, 0)}
}

// spent reports an hour's limit, limited one that passes. GitHub says 403 or 429 for both.
func (a answer) spent() bool {
	return a.refused() && a.header.Get("x-ratelimit-remaining") == "0" && a.header.Get("Retry-After") == ""
}

func (a answer) limited() bool {
	return a.status == http.StatusTooManyRequests || a.refused() && (a.header.Get("Retry-After") != "" || strings.Contains(strings.ToLower(string(a.body)), "rate limit"))
}

func (a answer) refused() bool {
	return a.status == http.StatusForbidden || a.status == http.StatusTooManyRequests
}

// asked is the wait that an answer asks for; a minute where it does not say.
func (a answer) asked(unit time.Duration) time.Duration {
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second
	}
	return 60 * unit
}

// message is what GitHub says in the body.
func (a answer) message() string {
	var doc struct{ Message string }
	if json.Unmarshal(a.body, &doc) == nil && doc.Message != "" {
		return doc.Message
	}
	return http.StatusText(a.status)
}

func (a answer) err() error { return fmt.Errorf("%d: %s", a.status, a.message()) }

// fault classifies an answer that is none of those the caller expects.
func (a answer) fault(op, subject string) error {
	e := &fault.Error{Op: op, Subject: subject, Kind: fault.Refused, Err: a.err()}
	switch a.status {
	case http.StatusUnauthorized:
		e.Kind, e.Hint = fault.Environment, "the token is not valid: log in with docker login ghcr.io and a classic token"
	case http.StatusForbidden:
		e.Kind = fault.Environment
		e.Hint = "a person's token needs read:packages and delete:packages; a workflow needs permissions: packages: write and the role Admin under the package's settings, Manage Actions access"
	case http.StatusNotFound:
		e.Kind, e.Hint = fault.Environment, "the package does not exist, or this token may not see it: mage ops:visibility"
	}
	return e
}

// sleep waits, or ends with the context.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
