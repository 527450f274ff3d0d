package mage_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// disturbance is what goes wrong for one job of an attempt.
type disturbance struct {
	says  string                   // the run is cancelled when the job says this
	sends func(*http.Request) bool // or when it sends such a request to GitHub; it gets there
	then  func()                   // instead of cancelling, at that request
	kills bool                     // the machine is lost: SIGKILL and nothing before it

	claims map[string]string                                // what its identity token says instead
	rogue  bool                                             // its token is of an issuer that somebody made
	issuer func(genuine string) http.Handler                // what answers for the issuer
	config func(t *testing.T, genuine string) (path string) // which services sign
}

// act is what happens at the request.
func (d disturbance) act(cancel func()) {
	if d.then != nil {
		d.then()
		return
	}
	cancel()
}

// The runner cancels by a signal to the top process of a step, and waits; then by a stronger one.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-cancellation
const (
	interruptPatience = 7500 * time.Millisecond
	terminatePatience = 2500 * time.Millisecond
	orphanPatience    = 3 * time.Second // until what a step left behind is let go of
)

// await waits for a step, and cancels it when now is closed. It returns the signal that ended it.
func await(c *exec.Cmd, now <-chan struct{}, kills bool) (signal string, err error) {
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err := <-ended:
		return "", err
	case <-now:
	}
	ladder := []struct {
		signal   syscall.Signal
		patience time.Duration
	}{{syscall.SIGINT, interruptPatience}, {syscall.SIGTERM, terminatePatience}}
	if kills {
		ladder = nil
	}
	for _, step := range ladder {
		_ = c.Process.Signal(step.signal)
		select {
		case err := <-ended:
			return step.signal.String(), err
		case <-time.After(step.patience):
		}
	}
	_ = c.Process.Kill()
	return syscall.SIGKILL.String(), <-ended
}

// spoken is what a job said so far.
type spoken struct {
	mu   sync.Mutex
	text bytes.Buffer
	says string // heard when it is said; empty: nothing is
	once sync.Once
	now  chan struct{} // closed when it was heard
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text.Write(p); s.says != "" && bytes.Contains(s.text.Bytes(), []byte(s.says)) {
		s.hear()
	}
	return len(p), nil
}

func (s *spoken) hear() { s.once.Do(func() { close(s.now) }) }

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// traffic is what reached GitHub.
type traffic struct {
	mu     sync.Mutex
	writes int            // requests that were no reads
	made   map[string]int // manifests that were taken: "PATH DIGEST" → times
	logins map[string]bool
	is     func(*http.Request) bool
	then   func()
}

func (s *traffic) through(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if then := s.arrives(r); then != nil {
			then()
		}
		answer := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(answer, r)
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && answer.status == http.StatusCreated {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.made == nil {
				s.made = map[string]int{}
			}
			s.made[r.URL.Path+" "+w.Header().Get("Docker-Content-Digest")]++
		}
	})
}

func (s *traffic) arrives(r *http.Request) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, secret, ok := r.BasicAuth() // at the registry
	if !ok {
		_, secret, _ = strings.Cut(r.Header.Get("Authorization"), " ") // at the REST API
	}
	if s.logins == nil {
		s.logins = map[string]bool{}
	}
	s.logins[secret] = true
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		s.writes++
	}
	if s.is != nil && s.is(r) {
		s.is = nil
		return s.then
	}
	return nil
}

// watch calls then at the first request that is one, before it is answered.
func (s *traffic) watch(is func(*http.Request) bool, then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.is, s.then = is, then
}

func (s *traffic) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

// twice lists the manifests that were written more than once.
func (s *traffic) twice() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for what, n := range s.made {
		if n > 1 {
			all = append(all, fmt.Sprintf("%s: %d times", what, n))
		}
	}
	slices.Sort(all)
	return all
}

// usedBy lists the jobs whose tokens were shown.
func (s *traffic) usedBy() (jobs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for secret := range s.logins {
		if name, ok := strings.CutPrefix(secret, "ghs_canary/"); ok {
			name, _, _ = strings.Cut(name, "=")
			jobs = append(jobs, strings.Replace(name, "+", " ", 1))
		}
	}
	slices.Sort(jobs)
	return slices.Compact(jobs)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// watchWorkers looks for the inspection's processes below a step, until it is stopped, and returns the
// environment that the kernel has of each.
func watchWorkers(step int) (stop func() [][]string) {
	done, found := make(chan struct{}), make(chan [][]string, 1)
	go func() {
		all := map[int][]string{}
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			for _, pid := range workersBelow(step) {
				if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err == nil && len(content) > 0 {
					all[pid] = strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
				}
			}
			select {
			case <-ticker.C:
			case <-done:
				var environments [][]string
				for _, environment := range all {
					environments = append(environments, environment)
				}
				found <- environments
				return
			}
		}
	}()
	return func() [][]string {
		close(done)
		return <-found
	}
}

func workersBelow(step int) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		program, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(filepath.Base(program), "inspect-") && filepath.Base(program) != "inspect" && !strings.Contains(program, "/inspect-") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil && descends(pid, step) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func descends(pid, from int) bool {
	for pid > 1 && pid != from {
		pid = parentOf(pid)
	}
	return pid == from
}

// parentOf reads the fourth field of a process's stat, behind its name in brackets (proc(5)).
func parentOf(pid int) int {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

// remaining lists the processes that still work in a job's directory.
func remaining(dir string) (all []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && strings.HasPrefix(at, dir) {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(link), "cmdline"))
			all = append(all, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return all
}

// obeyed lists the workflow commands of a log that the runner obeys.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
func obeyed(log string) (commands []string) {
	silence := ""
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		switch token, stops := strings.CutPrefix(line, "::stop-commands::"); {
		case silence != "":
			if line == "::"+silence+"::" {
				silence = ""
			}
		case stops:
			silence = token
		case strings.HasPrefix(line, "::") || strings.HasPrefix(line, "##["):
			commands = append(commands, line)
		}
	}
	return commands
}

// unavailable answers for a service that is down.
func unavailable(string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "try later", http.StatusServiceUnavailable)
	})
}

// forSomebodyElse is an issuer that gives tokens for another audience than the one it is asked for.
func forSomebodyElse(genuine string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, genuine+"&audience=https://github.com/containai", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		request.Header.Set("Authorization", r.Header.Get("Authorization"))
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
		w.WriteHeader(answer.StatusCode)
		var body bytes.Buffer
		_, _ = body.ReadFrom(answer.Body)
		_, _ = w.Write(body.Bytes())
	})
}

// withoutCertificates is a signing configuration whose certificate authority is down.
func withoutCertificates(t *testing.T, genuine string) string {
	t.Helper()
	down := httptest.NewServer(unavailable(""))
	t.Cleanup(down.Close)
	return elsewhere(t, genuine, "caUrls", down.URL)
}
