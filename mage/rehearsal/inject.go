package rehearsal

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Rule chooses calls and says what happens to them.
type Rule struct {
	Method string // any when empty
	Path   string // regular expression on the URL's path, unanchored; any when empty
	Call   int    // the n-th call that Method and Path match, from 1; every one when 0
	Fault  Fault
}

// Call is one request that an [Injector] saw.
type Call struct{ Method, Path, Query string }

// String prints the call as the first line of its request.
func (c Call) String() string {
	if c.Query == "" {
		return c.Method + " " + c.Path
	}
	return c.Method + " " + c.Path + "?" + c.Query
}

// Injector is a handler that disturbs calls to the handler behind it. Its rules count their calls
// by themselves; where several fire on one call, the first one's fault happens. Faults that hold
// back or replace an answer keep it in memory. It is safe for concurrent use.
type Injector struct {
	next   http.Handler
	script *script
}

// NewInjector puts rules before a handler. A rule that cannot be meant is refused with fault.Invalid.
func NewInjector(next http.Handler, rules ...Rule) (*Injector, error) {
	s, err := newScript(rules)
	if err != nil {
		return nil, err
	}
	return &Injector{next: next, script: s}, nil
}

// Calls returns every call so far, in the order of arrival.
func (j *Injector) Calls() []Call { return j.script.seen() }

// Fired returns how many calls each rule has disturbed, in the order of the rules.
func (j *Injector) Fired() []int { return j.script.fired() }

// ServeHTTP counts the call and disturbs it, or passes it on.
func (j *Injector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := j.script.arrive(r)
	if !ok {
		j.pass(w, r)
		return
	}
	if !wait(r.Context(), f.Delay) {
		return // the client has gone
	}
	if f.After {
		catch(http.HandlerFunc(j.pass), r)
	}
	j.answer(w, r, f)
}

// answer ends the call as the fault says.
func (j *Injector) answer(w http.ResponseWriter, r *http.Request, f Fault) {
	switch {
	case f.Status != 0:
		drain(r)
		a := answer{status: f.Status, header: f.Header.Clone()}
		a.body.WriteString(f.Body)
		a.send(w)
	case f.Truncate != 0:
		catch(http.HandlerFunc(j.pass), r).sendCut(w, f.Truncate)
	case f.Reset:
		_, _ = io.CopyN(io.Discard, r.Body, f.ReadBody)
		hangUp(w)
	case f.Kill != nil:
		f.Kill()
		hangUp(w)
	case f.Stale && isRead(r.Method):
		j.answerStale(w, r)
	default:
		j.pass(w, r)
	}
}

func (j *Injector) answerStale(w http.ResponseWriter, r *http.Request) {
	before := j.script.recall(r.URL.Path)
	if before == nil { // nothing was written: as before is as now
		j.pass(w, r)
		return
	}
	before.send(w)
}

// pass lets the call through. Where a rule may want to answer stale, a write first keeps what its
// path answers now.
func (j *Injector) pass(w http.ResponseWriter, r *http.Request) {
	if j.script.stale && (r.Method == http.MethodPut || r.Method == http.MethodDelete) {
		j.script.remember(r.URL.Path, catch(j.next, lookOf(r)))
	}
	j.next.ServeHTTP(w, r)
}

// looking marks a request of the injector's own, which the model does not count.
type looking struct{}

// lookOf is a read of the path that r writes, with r's right to read it.
func lookOf(r *http.Request) *http.Request {
	look := r.Clone(context.WithValue(r.Context(), looking{}, true))
	look.Method, look.Body, look.ContentLength = http.MethodGet, http.NoBody, 0
	look.Header = http.Header{"Accept": manifestTypes()}
	if a := r.Header.Get("Authorization"); a != "" {
		look.Header.Set("Authorization", a)
	}
	return look
}

func isLook(r *http.Request) bool { return r.Context().Value(looking{}) != nil }

func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// wait waits and reports whether the client is still there.
func wait(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// script is the rules and what they have seen; several handlers may play one.
type script struct {
	stale bool // a rule is Stale

	mu     sync.Mutex
	parts  []part
	calls  []Call
	before map[string]*answer // path → what it answered before its last write
}

// part is a rule with its counters.
type part struct {
	Rule
	path           *regexp.Regexp
	matched, fired int
}

func newScript(rules []Rule) (*script, error) {
	s := &script{before: map[string]*answer{}}
	for _, rule := range rules {
		path, err := regexp.Compile(rule.Path)
		if err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "reading the path of rule", rule.Path)
		}
		if rule.Call < 0 {
			return nil, fault.New(fault.Invalid, "reading rule for", rule.Path, "Call is %d; calls are counted from 1", rule.Call)
		}
		if err := rule.Fault.validate(); err != nil {
			return nil, err
		}
		s.parts = append(s.parts, part{Rule: rule, path: path})
		s.stale = s.stale || rule.Fault.Stale
	}
	return s, nil
}

// arrive counts a call and returns the fault that is meant for it, if there is one.
func (s *script) arrive(r *http.Request) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, Call{r.Method, r.URL.Path, r.URL.RawQuery})
	chosen := -1
	for i := range s.parts {
		p := &s.parts[i]
		if p.Method != "" && p.Method != r.Method || !p.path.MatchString(r.URL.Path) {
			continue
		}
		p.matched++
		if chosen < 0 && (p.Call == 0 || p.Call == p.matched) {
			chosen = i
		}
	}
	if chosen < 0 {
		return Fault{}, false
	}
	s.parts[chosen].fired++
	return s.parts[chosen].Fault, true
}

func (s *script) seen() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *script) fired() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make([]int, len(s.parts))
	for i, p := range s.parts {
		counts[i] = p.fired
	}
	return counts
}

func (s *script) remember(path string, a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before[path] = a
}

func (s *script) recall(path string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.before[path]
}
