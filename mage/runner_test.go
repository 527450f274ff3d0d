package mage_test

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/rehearsal"
)

// forge is GitHub as its workflows meet it, on this machine: a repository, a registry with its APIs, an
// identity for each job. The workflows are this repository's own files; what they release is the tiny
// family, for two platforms.
type forge struct {
	t        *testing.T  // of the scene that is played
	whole    *testing.T  // of all scenes: what jobs left is there until its end
	clone    familyClone // where people work
	origin   string      // bare clone that jobs fetch from and push the ledger to
	commit   string      // of main
	model    *rehearsal.GitHub
	server   *httptest.Server
	seen     traffic
	helper   string // of Sigstore
	sigstore string // its directory: one instance for all jobs
	binary   string
	bin      string // in front of PATH
	runs     int
	attempts int // of all runs

	// On one platform nothing is built by build.yml: its jobs take over what a pull request's job built.
	short bool
	built map[string]*jobRun // by commit
}

const (
	forgeRepository = "containai/containai"
	somebodysToken  = "ghp_somebody" // may push, and is no job's
	maxAttempts     = 50             // whose tokens the model knows
)

// trigger is what starts a workflow.
type trigger struct {
	event, ref string
	fork       bool
	inputs     map[string]string
}

// flow is one run of a workflow.
type flow struct {
	*forge
	trigger
	top       string // the file that was started
	run       int
	attempt   int // of this run, from 1
	count     int // of all runs: no two attempts have the same tokens
	cancelled bool
	artifacts map[string]string
	jobs      map[string]*jobRun
	disturbed map[string]disturbance // by job
}

// jobRun is what became of a job.
type jobRun struct {
	result  string     // success, failure, cancelled, skipped
	ended   string     // the signal that ended it, when it was cancelled
	code    int        // exit code of the first command that failed
	workers [][]string // environments of the inspection's processes
	outputs terms
	left    terms    // outputs of its last step
	env     []string // of its last step, secrets and all
	log     string
	summary string
	dir     string
}

func newForge(t *testing.T, f familyClone, short bool) *forge {
	t.Helper()
	g := &forge{short: short, built: map[string]*jobRun{}, t: t, whole: t, clone: f, binary: f.binary, bin: t.TempDir(), origin: filepath.Join(t.TempDir(), "origin.git"), sigstore: filepath.Join(t.TempDir(), "sigstore")}
	git(t, f.dir, "clone", "-q", "--bare", f.dir, g.origin)
	g.commit = git(t, f.dir, "rev-parse", "HEAD")
	hook := "#!/bin/sh\n[ -e \"$GIT_DIR/writable\" ] || { echo 'this job may not write contents' >&2; exit 1; }\n"
	g.program(filepath.Join(g.origin, "hooks", "pre-receive"), hook)
	goProgram, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	// Every job compiles the same magefile: it was compiled once for all of them.
	g.program(filepath.Join(g.bin, "go"), "#!/bin/sh\n[ \"$1 $2 $3\" = 'tool mage -compile' ] && exec cp '"+f.binary+"' \"$4\"\nexec '"+goProgram+"' \"$@\"\n")
	// No smoke test of the tiny family is run here on a foreign platform.
	g.program(filepath.Join(g.bin, "sudo"), "#!/bin/sh\n[ \"$*\" = 'apt-get install -y -q --no-install-recommends qemu-user-static' ]\n")
	g.helper = filepath.Join(t.TempDir(), "sigstore-local")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", g.helper, ".")
	build.Dir, build.Env = "sigstore-local", append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	tokens := []rehearsal.Token{{Secret: somebodysToken, Login: "octocat", Scopes: []string{"write:packages"}}}
	for attempt := range maxAttempts {
		tokens = append(tokens, g.tokens(attempt)...)
	}
	g.model = rehearsal.New(rehearsal.Options{Now: time.Now, Tokens: tokens})
	g.server = httptest.NewServer(g.seen.through(g.model))
	t.Cleanup(g.server.Close)
	return g
}

// scene is a subtest whose jobs fail it alone.
func (g *forge) scene(t *testing.T, name string, play func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		before := g.t
		g.t = t
		defer func() { g.t = before }()
		play(t)
	})
}

func (g *forge) tempDir() string { return g.whole.TempDir() }

// push is a change of main, as a merged pull request makes it.
func (g *forge) push(message string) {
	g.t.Helper()
	g.propose(message, "main")
}

// propose is a commit on another ref, which the next runs check out.
func (g *forge) propose(message, to string) {
	g.t.Helper()
	g.clone.commit(g.t, message)
	g.program(filepath.Join(g.origin, "writable"), "")
	git(g.t, g.clone.dir, "push", "-q", g.origin, "HEAD:"+to)
	g.commit = git(g.t, g.clone.dir, "rev-parse", "HEAD")
}

func (g *forge) program(path, script string) {
	g.t.Helper()
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		g.t.Fatal(err)
	}
}

// tokens are the GITHUB_TOKENs of all jobs in an attempt, each with what its job may.
func (g *forge) tokens(attempt int) []rehearsal.Token {
	var all []rehearsal.Token
	for _, file := range []string{"pull-request.yml", "release.yml", "build.yml", "rollback.yml", "care.yml"} {
		w := g.read(file)
		for _, name := range slices.Sorted(maps.Keys(w.Jobs)) {
			token := rehearsal.Token{Secret: secretFor(file, name, attempt), Login: "octocat", Repository: forgeRepository}
			for _, may := range []struct{ terms, access, name string }{
				{"packages", "read", "read:packages"}, {"packages", "write", "write:packages"}, {"packages", "write", "delete:packages"},
				{"attestations", "write", "attestations:write"},
			} {
				if (*w.Jobs[name].Permissions)[may.terms] == may.access {
					token.Scopes = append(token.Scopes, may.name)
				}
			}
			all = append(all, token)
		}
	}
	return all
}

func (g *forge) read(file string) *mage.Workflow {
	g.t.Helper()
	w, err := mage.ReadWorkflow(file)
	if err != nil {
		g.t.Fatal(err)
	}
	return w
}

// secretFor is long and odd enough to be found wherever it should not be.
func secretFor(file, job string, attempt int) string {
	return fmt.Sprintf("ghs_canary/%s+%s=%d", file, job, attempt)
}

// start runs a workflow to its end.
func (g *forge) start(file string, tr trigger) *flow {
	g.t.Helper()
	return g.startDisturbed(file, tr, nil)
}

// startDisturbed does so while things go wrong for some of its jobs.
func (g *forge) startDisturbed(file string, tr trigger, disturbed map[string]disturbance) *flow {
	g.t.Helper()
	g.runs++
	r := &flow{forge: g, trigger: tr, top: file, run: 1000 + g.runs, artifacts: map[string]string{}, jobs: map[string]*jobRun{}}
	r.runAgain(disturbed)
	return r
}

// runAgain is another attempt of a run: "Re-run failed jobs", which are those that did not succeed.
func (r *flow) runAgain(disturbed map[string]disturbance) {
	r.t.Helper()
	r.attempts++
	if r.attempts >= maxAttempts {
		r.t.Fatal("the model knows no more tokens")
	}
	r.attempt, r.count, r.cancelled, r.disturbed = r.attempt+1, r.attempts, false, disturbed
	for name, j := range r.jobs {
		if j.result != "success" {
			delete(r.jobs, name)
		}
	}
	r.workflow(r.read(r.top), termsOf(r.inputs), "", nil)
}

// forget makes the next attempt one of all jobs.
func (r *flow) forget() { r.jobs = map[string]*jobRun{} }

func termsOf(values map[string]string) terms {
	s := terms{}
	for name, value := range values {
		s[name] = value
		if value == "true" || value == "false" { // a box to tick
			s[name] = value == "true"
		}
	}
	return s
}

// workflow runs the jobs of a file, each after those that it needs. A called workflow's permissions are
// bounded by its caller's.
func (r *flow) workflow(w *mage.Workflow, inputs terms, prefix string, bound map[string]string) string {
	r.t.Helper()
	if r.short && w.File() == "build.yml" {
		r.takeOver(prefix)
	}
	result := "success"
	done := map[string]bool{}
	for len(done) < len(w.Jobs) {
		for _, name := range slices.Sorted(maps.Keys(w.Jobs)) {
			j := w.Jobs[name]
			if done[name] || slices.ContainsFunc(j.Before(), func(n string) bool { return !done[n] }) {
				continue
			}
			done[name] = true
			run := r.jobs[prefix+name]
			if run == nil {
				run = r.job(w, j, name, inputs, prefix, bound)
				r.jobs[prefix+name] = run
			}
			if run.result == "failure" || run.result == "cancelled" {
				result = run.result
			}
		}
	}
	return result
}

// takeOver puts what a pull request's job built in the place of what the building jobs would have.
func (r *flow) takeOver(prefix string) {
	r.t.Helper()
	built := r.built[r.commit]
	if built == nil {
		r.t.Fatalf("nobody built %s", r.commit)
	}
	for _, name := range []string{"amd64", "arm64", "inspect"} {
		if r.jobs[prefix+name] == nil {
			r.jobs[prefix+name] = &jobRun{result: "success", outputs: built.left}
		}
	}
	r.artifacts["dist"] = filepath.Join(built.dir, "dist", r.commit)
}

func (r *flow) job(w *mage.Workflow, j *mage.WorkflowJob, name string, inputs terms, prefix string, bound map[string]string) *jobRun {
	r.t.Helper()
	s := terms{"inputs": inputs, "github": r.context(w.File(), name), "runner": terms{"temp": r.tempDir()}}
	needs := terms{}
	for _, n := range j.Before() {
		before := r.jobs[prefix+n]
		needs[n] = terms{"result": before.result, "outputs": before.outputs}
		if before.result != "success" {
			s["failed"] = true
		}
	}
	s["needs"] = needs
	if r.cancelled {
		s["failed"], s["cancelled"] = true, true
	}
	run := &jobRun{result: "skipped", outputs: terms{}}
	if !s.holds(r.t, j.If) {
		return run
	}
	delete(s, "failed")
	for terms, access := range *j.Permissions {
		if bound != nil && bound[terms] != access && bound[terms] != "write" {
			r.t.Errorf("%s %s asks for %s: %s, and its caller has %q", w.File(), name, terms, access, bound[terms])
		}
	}
	if j.Uses != "" {
		given := terms{}
		for key, value := range j.With {
			given[key] = s.text(r.t, value)
		}
		run.result = r.workflow(r.read(filepath.Base(j.Uses)), given, prefix+name+"/", *j.Permissions)
		return run
	}
	r.steps(w, j, prefix+name, s, run)
	return run
}

// context is the github of expressions.
func (r *flow) context(file, job string) terms {
	return terms{
		"ref": r.ref, "sha": r.commit, "event_name": r.event, "repository": forgeRepository, "repository_owner": "containai", "actor": "octocat",
		"token": secretFor(file, job, r.count), "event": terms{"pull_request": terms{"number": "7"}},
	}
}
