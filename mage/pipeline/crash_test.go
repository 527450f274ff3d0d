package pipeline_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/ledger"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// The crash matrix: a process that moves a channel of nine repositories is killed before and after
// every write it sends, to the registry or to the git host. What it left is continued, and then the
// registry and the ledger must be what an undisturbed run makes of them, to the byte, with no write
// sent twice. After every write the world is looked at as a consumer sees it.

// nine are six images; with payload, installer and metadata they are nine repositories.
const nine = "  base: {}\n  app: {from: base}\n  agent: {from: app}\n  proxy: {from: base}\n  notes: {from: base}\n  extra: {from: app}\n"

// deep reports whether the long matrices were asked for.
func deep() bool { return os.Getenv("CONTAINAI_DEEP") != "" }

// crashes is every how manieth write is killed at: every one in the deep run.
func crashes() int {
	if deep() {
		return 1
	}
	return 9
}

func operations() []string { return []string{"promote", "rollback", "release"} }

func TestA1KilledAtEveryWriteAndContinued(t *testing.T) {
	for name, newSoil := range soils() {
		t.Run(name, func(t *testing.T) {
			if name == onDisk && !deep() {
				t.Skip("it copies thousands of files for every kill: mage testDeep runs it")
			}
			o := newOriginal(t, newSoil)
			for _, operation := range operations() {
				t.Run(operation, func(t *testing.T) { o.killEverywhere(t, operation) })
			}
		})
	}
}

func (o original) killEverywhere(t *testing.T, operation string) {
	undisturbed := o.copy(t)
	if out, err := undisturbed.run(operation, kill{}); err != nil {
		t.Fatalf("undisturbed: %v\n%s", err, out)
	}
	want := undisturbed.state()
	points := 0
	for write := 1; write <= undisturbed.front.writes; write += crashes() {
		for _, when := range []moment{beforeWrite, afterWrite} {
			points++
			t.Run(fmt.Sprintf("%s write %d of %d", when, write, undisturbed.front.writes), func(t *testing.T) {
				s := o.copy(t)
				out, err := s.run(operation, kill{write, when})
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("it was to be killed, and ended with %v\n%s", err, out)
				}
				s.heal(t, operation, want.ledger)
				if diff := cmp.Diff(want, s.state(), cmp.AllowUnexported(state{})); diff != "" {
					t.Errorf("continued, it differs from the undisturbed run (-want +got):\n%s", diff)
				}
				s.still(t)
			})
		}
	}
	t.Logf("%s: %d writes, killed at %d moments", operation, undisturbed.front.writes, points)
}

// moment is before or after a write reaches the registry.
type moment string

const (
	beforeWrite moment = "before"
	afterWrite  moment = "after"
)

// kill says when a process is to die; the zero kill is never.
type kill struct {
	write int // counted from 1
	when  moment
}

// original is a family whose channels serve something, as every copy begins: prod served first and
// second, dev third.
type original struct {
	*world
	soil soil
	dir  string // family.yaml, key.pem and remote.git
}

func newOriginal(t testing.TB, newSoil func(testing.TB) (http.Handler, func() soil)) original {
	t.Helper()
	handler, done := newSoil(t)
	o := original{world: newWorldBefore(t, handler, nine, first, second, third), dir: t.TempDir()}
	o.now = rehearsal.Epoch().Add(time.Hour)
	der, err := x509.MarshalPKCS8PrivateKey(o.key)
	if err != nil {
		t.Fatal(err)
	}
	keep(t, filepath.Join(o.dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	keep(t, filepath.Join(o.dir, "family.yaml"), familyFile(t, o.key, nine))
	git(t, o.dir, "init", "-q", "--bare", "remote.git")
	git(t, o.remote(), "config", "http.receivepack", "true")
	p := o.pipeline(t, "operator")
	p.Ledger = cloneOf(t, "file://"+o.remote(), o.fam)
	for _, step := range []struct{ channel, commit string }{{"prod", first}, {"prod", second}, {"dev", third}} {
		if _, err := p.Promote(t.Context(), o.promotion(step.channel, step.commit, "")); err != nil {
			t.Fatalf("promoting %s to %.4s: %v", step.channel, step.commit, err)
		}
	}
	o.server.Close()
	o.soil = done()
	return o
}

func (o original) remote() string { return filepath.Join(o.dir, "remote.git") }

// scene is a copy of the original, with everything served at one address.
type scene struct {
	original
	registry planted
	front    *front
	url      string
	clone    string
	signing  *time.Duration // what signing took, where it is measured
}

func (o original) copy(t testing.TB) *scene {
	t.Helper()
	s := &scene{original: o, registry: o.soil.again(t), clone: t.TempDir()}
	s.dir = t.TempDir()
	if err := os.CopyFS(s.dir, os.DirFS(o.dir)); err != nil {
		t.Fatal(err)
	}
	s.world = &world{behind: s.registry, fam: o.fam, key: o.key, layout: o.layout, cache: o.cache, releases: o.releases, now: o.now}
	s.server = httptest.NewServer(s.world)
	t.Cleanup(s.server.Close)
	s.front = &front{scene: s, watch: &onlooker{scene: s, reader: s.pipeline(t, reader)}}
	server := httptest.NewServer(s.front)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.front.git = gitHost(t, s.dir)
	git(t, s.clone, "init", "-q")
	git(t, s.clone, "remote", "add", "origin", s.url+"/remote.git")
	if err := s.front.watch.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs an operation in a process of its own, which dies when it is to.
func (s *scene) run(operation string, k kill) (out string, err error) {
	child := exec.Command(os.Args[0], "-test.run=^TestIsKilled$")
	child.Env = append(os.Environ(), "CRASH_OPERATION="+operation, "CRASH_DIR="+s.dir, "CRASH_URL="+s.url, "CRASH_CLONE="+s.clone)
	var output bytes.Buffer
	child.Stdout, child.Stderr = &output, &output
	s.front.mu.Lock() // it can send nothing before the front knows whom to kill
	s.front.kill, s.front.child = k, child
	err = child.Start()
	s.front.mu.Unlock()
	if err != nil {
		return "", err
	}
	err = child.Wait() // and for its git, which has the same standard output
	s.front.mu.Lock()
	defer s.front.mu.Unlock()
	s.front.dead = false
	if seen := s.front.seen; seen != nil {
		err = seen
	}
	return output.String(), err
}

// TestIsKilled is the process that the crash matrix kills; it is no test of its own.
func TestIsKilled(t *testing.T) {
	dir := os.Getenv("CRASH_DIR")
	if dir == "" {
		t.Skip("it runs in a child of the crash matrix")
	}
	s := &scene{original: original{world: &world{now: rehearsal.Epoch().Add(2 * time.Hour), cache: t.TempDir()}, dir: dir},
		url: os.Getenv("CRASH_URL"), clone: os.Getenv("CRASH_CLONE")}
	content, err := os.ReadFile(filepath.Join(dir, "family.yaml"))
	if err == nil {
		s.fam, err = family.Parse("family.yaml", content)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.layout, err = registry.OpenLayout(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	s.key = readKey(t, filepath.Join(dir, "key.pem"))
	if err := s.perform(t, os.Getenv("CRASH_OPERATION")); err != nil {
		t.Fatal(err)
	}
}

// perform does an operation as the commands do.
func (s *scene) perform(t testing.TB, operation string) error {
	p, ctx := s.mover(t), t.Context()
	m := release.Moved{By: "operator", Run: "7", Reason: "as the test says"}
	var change pipeline.Change
	switch operation {
	case "release":
		p.History = history{s.plan(third).Source}
		_, err := p.Release(ctx, s.plan(third), pipeline.Order{Channel: "prod", Version: "v1.0.0", Until: pipeline.UntilPromote, Moved: m})
		return err
	case "tail": // of a release, which has just made what it promotes
		_, err := p.Promote(ctx, s.promotion("prod", third, ""))
		return err
	case "promote":
		head, err := p.Ledger.Head(ctx)
		if err != nil {
			return err
		}
		pub, _, err := p.Find(ctx, head, "dev")
		if err != nil {
			return err
		}
		if change, err = p.PlanPromotion(ctx, head, pipeline.Promotion{Published: pub, Channel: "prod", Moved: m}); err != nil {
			return err
		}
	case "rollback":
		var err error
		if change, err = p.PlanRollback(ctx, "prod", "", m, true); err != nil {
			return err
		}
	}
	_, _, err := p.Apply(ctx, change)
	return err
}

// mover is who moves the channel: at a time that stands still, so that what is written twice is the same.
func (s *scene) mover(t testing.TB) *pipeline.Pipeline {
	t.Helper()
	p := s.pipelineAt(t, s.url, "mover")
	p.Ledger = openClone(t, s.clone, s.fam)
	p.Now = func() time.Time { return rehearsal.Epoch().Add(2 * time.Hour) }
	if open := p.Signer; s.signing != nil {
		p.Signer = func(ctx context.Context) (pipeline.Signer, error) {
			signer, err := open(ctx)
			return timedSigner{signer, s.signing}, err
		}
	}
	return p
}

// heal continues what was killed: a change that the ledger has is finished by reconciling, one that it
// has not is made again.
func (s *scene) heal(t *testing.T, operation, committed string) {
	t.Helper()
	s.cache = t.TempDir()
	var err error
	if s.tip() == committed {
		_, _, err = s.mover(t).Converge(t.Context())
	} else {
		err = s.perform(t, operation)
	}
	if err := errors.Join(err, s.front.seen); err != nil {
		t.Fatalf("continuing: %v", err)
	}
}

// still demands that there is nothing left to do.
func (s *scene) still(t *testing.T) {
	t.Helper()
	before := s.front.writes
	if _, moved, err := s.mover(t).Converge(t.Context()); err != nil || len(moved) > 0 || s.front.writes != before {
		t.Errorf("reconciling once more moved %v with %d writes, %v", moved, s.front.writes-before, err)
	}
}

// state is everything that lasts.
type state struct {
	registry, ledger string
	writes           []string // that changed something, sorted
}

func (s *scene) state() state {
	return state{s.registry.state(), s.tip(), slices.Sorted(slices.Values(s.front.effects))}
}

// tip is the commit of the ledger's branch, as the git host keeps it.
func (s *scene) tip() string {
	content, _ := os.ReadFile(filepath.Join(s.remote(), "refs", "heads", s.fam.Ledger.Branch)) // before the first there is none
	return strings.TrimSpace(string(content))
}

// front stands before the registry and the git host. Reads pass; writes pass one at a time, and at one
// of them the process that sent it is killed.
type front struct {
	*scene
	git   http.Handler
	watch *onlooker

	mu      sync.Mutex
	kill    kill
	child   *exec.Cmd
	dead    bool // nothing of the child's arrives any more
	writes  int
	effects []string
	seen    error // what a consumer saw and must not
}

func (f *front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	next := http.Handler(f.world)
	if !strings.HasPrefix(req.URL.Path, "/v2/") {
		next = f.git
	}
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		panic(http.ErrAbortHandler) // the server's documented way to end a connection
	}
	if req.Method == http.MethodGet || req.Method == http.MethodHead || strings.HasSuffix(req.URL.Path, "/git-upload-pack") {
		f.mu.Unlock()
		next.ServeHTTP(w, req)
		return
	}
	defer f.mu.Unlock()
	content, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Body = io.NopCloser(bytes.NewReader(content))
	f.writes++
	f.die(beforeWrite)
	tip := f.tip()
	next.ServeHTTP(w, req)
	// The git of a killed process sends a push again whose answer it missed; that changes nothing.
	if effect := effectOf(req, content); effect != "" && (effect != pushed || f.tip() != tip) {
		f.effects = append(f.effects, effect)
	}
	f.seen = errors.Join(f.seen, f.watch.look(context.Background()))
	f.die(afterWrite)
}

func (f *front) die(when moment) {
	if f.kill != (kill{f.writes, when}) {
		return
	}
	f.dead = true
	f.kill = kill{}
	if err := f.child.Process.Signal(syscall.SIGKILL); err != nil {
		f.seen = errors.Join(f.seen, err)
	}
	panic(http.ErrAbortHandler)
}

const pushed = "git push"

// effectOf names what a write changes; an upload that only begins changes nothing.
func effectOf(req *http.Request, content []byte) string {
	repo, _, upload := strings.Cut(req.URL.Path, "/blobs/uploads/")
	switch {
	case strings.HasSuffix(req.URL.Path, "/git-receive-pack"):
		return pushed
	case upload && req.Method == http.MethodPut:
		return "blob " + repo + " " + req.URL.Query().Get("digest")
	case strings.Contains(req.URL.Path, "/manifests/"):
		return "manifest " + req.URL.Path + " " + digest.FromBytes(content).String()
	}
	return ""
}

// onlooker looks at the world after every write, as a consumer does.
type onlooker struct {
	*scene
	reader *pipeline.Pipeline
	began  string // the ledger's commit, when it looked first
	was    map[string]digest.Digest
	shows  digest.Digest // metadata:channels, when it looked last
}

// look demands that consumers see one signed release, and that no tag is ahead of the ledger.
func (o *onlooker) look(ctx context.Context) error {
	tags := map[string]digest.Digest{}
	for _, member := range o.fam.Members() {
		tags[member] = o.shown(member, "prod")
	}
	if o.was == nil {
		o.began, o.was = o.tip(), tags
	}
	if o.tip() == o.began && !maps.Equal(tags, o.was) {
		return fmt.Errorf("tags moved before the ledger: %v, were %v", tags, o.was)
	}
	shows := o.shown("metadata", release.ChannelsTag)
	if shows == "" || tags["app"] == "" {
		return fmt.Errorf("consumers are shown nothing: channels is %q, app:prod %q", shows, tags["app"])
	}
	if shows == o.shows {
		return nil
	}
	o.shows = shows
	document, err := readShown(ctx, o.reader, shows)
	if err != nil {
		return fmt.Errorf("consumers are shown what they cannot trust: %w", err)
	}
	for member, want := range document.Channels["prod"].Members {
		if tags[member] != want {
			return fmt.Errorf("generation %d is shown, and %s:prod is %s, not %s", document.Generation, member, tags[member], want)
		}
	}
	return (&watcher{world: o.world}).unmixed(document)
}

// gitHost serves the repositories of a directory as a git host does.
func gitHost(t testing.TB, dir string) http.Handler {
	t.Helper()
	program := filepath.Join(git(t, dir, "--exec-path"), "git-http-backend")
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return &cgi.Handler{Path: program, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}, Stderr: t.Output()}
}

// cloneOf opens the ledger of a new clone of a remote.
func cloneOf(t testing.TB, url string, fam *family.Family) *ledger.Ledger {
	t.Helper()
	dir := t.TempDir()
	git(t, dir, "init", "-q")
	git(t, dir, "remote", "add", "origin", url)
	return openClone(t, dir, fam)
}

func openClone(t testing.TB, dir string, fam *family.Family) *ledger.Ledger {
	t.Helper()
	l, err := ledger.OpenClone(t.Context(), dir, fam.Ledger.Branch, fam.Ledger.Ref)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// git runs git as a person does, and returns what it prints.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func keep(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readKey(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}
