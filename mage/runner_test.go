package mage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/rehearsal"
)

// forge is GitHub as its workflows meet it, on this machine: a repository, a registry with its APIs, an
// identity for each job. The workflows are this repository's own files; what they release is the tiny
// family, for two platforms.
type forge struct {
	t        *testing.T
	origin   string // bare clone that jobs fetch from and push the ledger to
	commit   string
	model    *rehearsal.GitHub
	server   *httptest.Server
	writes   atomic.Int64 // requests to the model that were no reads
	helper   string       // of Sigstore
	sigstore string       // its directory: one instance for all jobs
	binary   string
	bin      string // in front of PATH
	runs     int
}

const forgeRepository = "containai/containai"

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
	artifacts map[string]string
	jobs      map[string]*jobRun
}

// jobRun is what became of a job.
type jobRun struct {
	result  string // success, failure, skipped
	outputs terms
	env     []string // of its last step, secrets and all
	log     string
	summary string
	dir     string
}

func newForge(t *testing.T, f familyClone) *forge {
	t.Helper()
	g := &forge{t: t, binary: f.binary, bin: t.TempDir(), origin: filepath.Join(t.TempDir(), "origin.git"), sigstore: filepath.Join(t.TempDir(), "sigstore")}
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
	g.model = rehearsal.New(rehearsal.Options{Now: time.Now, Tokens: g.tokens()})
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			g.writes.Add(1)
		}
		g.model.ServeHTTP(w, r)
	}))
	t.Cleanup(g.server.Close)
	return g
}

func (g *forge) program(path, script string) {
	g.t.Helper()
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		g.t.Fatal(err)
	}
}

// tokens are the GITHUB_TOKENs of all jobs, each with what its job may.
func (g *forge) tokens() []rehearsal.Token {
	var all []rehearsal.Token
	for _, file := range []string{"pull-request.yml", "release.yml", "build.yml", "rollback.yml", "care.yml"} {
		w := g.read(file)
		for name, j := range w.Jobs {
			token := rehearsal.Token{Secret: secretFor(file, name), Login: "octocat", Repository: forgeRepository}
			for _, may := range []struct{ terms, access, name string }{
				{"packages", "read", "read:packages"}, {"packages", "write", "write:packages"}, {"packages", "write", "delete:packages"},
				{"attestations", "write", "attestations:write"},
			} {
				if (*j.Permissions)[may.terms] == may.access {
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
func secretFor(file, job string) string { return "ghs_canary/" + file + "+" + job }

// start runs a workflow to its end.
func (g *forge) start(file string, tr trigger) *flow {
	g.t.Helper()
	g.runs++
	r := &flow{forge: g, trigger: tr, top: file, artifacts: map[string]string{}, jobs: map[string]*jobRun{}}
	r.workflow(g.read(file), termsOf(tr.inputs), "", nil)
	return r
}

func termsOf(values map[string]string) terms {
	s := terms{}
	for name, value := range values {
		s[name] = value
	}
	return s
}

// workflow runs the jobs of a file, each after those that it needs. A called workflow's permissions are
// bounded by its caller's.
func (r *flow) workflow(w *mage.Workflow, inputs terms, prefix string, bound map[string]string) string {
	r.t.Helper()
	result := "success"
	done := map[string]bool{}
	for len(done) < len(w.Jobs) {
		for _, name := range slices.Sorted(maps.Keys(w.Jobs)) {
			j := w.Jobs[name]
			if done[name] || slices.ContainsFunc(j.Before(), func(n string) bool { return !done[n] }) {
				continue
			}
			done[name] = true
			run := r.job(w, j, name, inputs, prefix, bound)
			r.jobs[prefix+name] = run
			if run.result == "failure" {
				result = "failure"
			}
		}
	}
	return result
}

func (r *flow) job(w *mage.Workflow, j *mage.WorkflowJob, name string, inputs terms, prefix string, bound map[string]string) *jobRun {
	r.t.Helper()
	s := terms{"inputs": inputs, "github": r.context(w.File(), name), "runner": terms{"temp": r.t.TempDir()}}
	needs := terms{}
	for _, n := range j.Before() {
		before := r.jobs[prefix+n]
		needs[n] = terms{"result": before.result, "outputs": before.outputs}
		if before.result != "success" {
			s["failed"] = true
		}
	}
	s["needs"] = needs
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
	r.steps(w, j, name, s, run)
	return run
}

// context is the github of expressions.
func (r *flow) context(file, job string) terms {
	return terms{
		"ref": r.ref, "sha": r.commit, "event_name": r.event, "repository": forgeRepository, "repository_owner": "containai", "actor": "octocat",
		"token": secretFor(file, job), "event": terms{"pull_request": terms{"number": "7"}},
	}
}

// steps runs a job on a machine of its own: an empty workspace, nothing but the documented variables,
// and an identity where the job may have one.
func (r *flow) steps(w *mage.Workflow, j *mage.WorkflowJob, name string, s terms, run *jobRun) {
	r.t.Helper()
	run.dir = filepath.Join(r.t.TempDir(), "workspace")
	writable := filepath.Join(r.origin, "writable")
	_ = os.Remove(writable)
	if (*j.Permissions)["contents"] == "write" {
		r.program(writable, "")
	}
	base := append(r.variables(run.dir, s), "PWD="+run.dir)
	if (*j.Permissions)["id-token"] == "write" {
		identity, closeIdentity := r.identity(w.File())
		defer closeIdentity()
		base = append(base, identity...)
	}
	for _, env := range []map[string]string{w.Env, j.Env} {
		base = append(base, r.evaluate(s, env)...)
	}
	var log bytes.Buffer
	results := terms{}
	s["steps"] = results
	run.result = "success"
	for i, step := range j.Steps {
		if !s.holds(r.t, step.If) {
			continue
		}
		if err := r.step(step, base, s, run, &log); err != nil {
			run.result, s["failed"] = "failure", true
			fmt.Fprintf(&log, "step %d: %v\n", i, err)
		}
		if step.ID != "" {
			results[step.ID] = terms{"outputs": run.outputs}
		}
	}
	run.log = log.String()
	outputs := terms{}
	for key, value := range j.Outputs {
		outputs[key] = s.text(r.t, value)
	}
	run.outputs = outputs
}

func (r *flow) evaluate(s terms, env map[string]string) []string {
	r.t.Helper()
	var all []string
	host := strings.TrimPrefix(r.server.URL, "http://")
	for _, key := range slices.Sorted(maps.Keys(env)) {
		value := strings.Replace(s.text(r.t, env[key]), "ghcr.io/", host+"/", 1) // the one thing that is elsewhere
		all = append(all, key+"="+value)
	}
	return all
}

func (r *flow) step(step *mage.WorkflowStep, base []string, s terms, run *jobRun, log *bytes.Buffer) error {
	r.t.Helper()
	with := map[string]string{}
	for key, value := range step.With {
		with[key] = s.text(r.t, value)
	}
	action, _, _ := strings.Cut(step.Uses.Value, "@")
	switch action {
	case "actions/checkout":
		git(r.t, filepath.Dir(run.dir), "clone", "-q", r.origin, run.dir)
		git(r.t, run.dir, "checkout", "-q", "--detach", r.commit)
		return nil
	case "actions/setup-go":
		return nil
	case "actions/upload-artifact":
		return r.upload(filepath.Join(run.dir, with["path"]), with)
	case "actions/download-artifact":
		to := with["path"]
		if !filepath.IsAbs(to) {
			to = filepath.Join(run.dir, to)
		}
		return os.CopyFS(to, os.DirFS(r.artifacts[with["name"]]))
	case "":
		return r.script(step, append(slices.Clone(base), r.evaluate(s, step.Env)...), run, log)
	}
	return fmt.Errorf("nobody knows %s", action)
}

func (r *flow) upload(from string, with map[string]string) error {
	if _, err := os.Stat(from); err != nil {
		if with["if-no-files-found"] == "ignore" {
			return nil
		}
		return err
	}
	to := filepath.Join(r.t.TempDir(), with["name"])
	r.artifacts[with["name"]] = to
	return os.CopyFS(to, os.DirFS(from))
}

// script runs a step as the runner does: bash -e, on a file.
func (r *flow) script(step *mage.WorkflowStep, env []string, run *jobRun, log *bytes.Buffer) error {
	r.t.Helper()
	dir := r.t.TempDir()
	file, output, summary := filepath.Join(dir, "script.sh"), filepath.Join(dir, "output"), filepath.Join(dir, "summary")
	if err := os.WriteFile(file, []byte(step.Run), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-e", file)
	c.Dir, c.Env = run.dir, append(env, "GITHUB_OUTPUT="+output, "GITHUB_STEP_SUMMARY="+summary)
	run.env = c.Env
	out, err := c.CombinedOutput()
	fmt.Fprintf(log, "$ %s\n%s", step.Run, out)
	content, _ := os.ReadFile(output)
	run.outputs = outputsOf(string(content))
	page, _ := os.ReadFile(summary)
	run.summary += string(page)
	return err
}

// outputsOf reads $GITHUB_OUTPUT.
func outputsOf(content string) terms {
	all := terms{}
	lines := strings.Split(content, "\n")
	for i := 0; i < len(lines); i++ {
		name, delimiter, ok := strings.Cut(lines[i], "<<")
		if !ok {
			continue
		}
		var value []string
		for i++; i < len(lines) && lines[i] != delimiter; i++ {
			value = append(value, lines[i])
		}
		all[name] = strings.Join(value, "\n")
	}
	return all
}

// variables are what a runner sets, and where this machine keeps what was compiled.
func (r *flow) variables(workspace string, s terms) []string {
	r.t.Helper()
	payload := map[string]any{
		"ref":        r.ref,
		"repository": map[string]any{"id": 4242, "full_name": forgeRepository, "default_branch": "main"},
	}
	if r.event == "pull_request" {
		from := forgeRepository
		if r.fork {
			from = "stranger/containai"
		}
		payload["pull_request"] = map[string]any{"head": map[string]any{"repo": map[string]any{"full_name": from}}}
	}
	if r.inputs != nil {
		payload["inputs"] = r.inputs
	}
	content, err := json.Marshal(payload)
	if err != nil {
		r.t.Fatal(err)
	}
	home := r.t.TempDir()
	file := filepath.Join(home, "event.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	env := []string{
		"CI=true", "GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=" + r.event, "GITHUB_EVENT_PATH=" + file, "GITHUB_REF=" + r.ref, "GITHUB_SHA=" + r.commit,
		"GITHUB_REPOSITORY=" + forgeRepository, "GITHUB_REPOSITORY_OWNER=containai", "GITHUB_ACTOR=octocat", "GITHUB_RUN_ID=" + fmt.Sprint(1000+r.runs), "GITHUB_RUN_ATTEMPT=1",
		"GITHUB_SERVER_URL=https://github.com", "GITHUB_API_URL=" + r.server.URL, "GITHUB_WORKSPACE=" + workspace,
		"RUNNER_TEMP=" + s["runner"].(terms)["temp"].(string), "HOME=" + home, "PATH=" + r.bin + ":" + os.Getenv("PATH"),
		"CONTAINAI_TRUSTED_ROOT=" + filepath.Join(r.sigstore, "trusted_root.json"),
	}
	for name, value := range goEnvironment() {
		env = append(env, name+"="+value)
	}
	return env
}

// identity starts Sigstore with the claims of one job, as GitHub's issuer would make them.
func (r *flow) identity(file string) ([]string, func()) {
	r.t.Helper()
	at := func(file string) string { return forgeRepository + "/.github/workflows/" + file + "@" + r.ref }
	claims, err := json.Marshal(map[string]string{
		"iss": sigstore.GitHubIssuer, "sub": "repo:containai@77/containai@4242:ref:" + r.ref,
		"repository": forgeRepository, "repository_id": "4242", "repository_visibility": "public", "repository_owner": "containai", "repository_owner_id": "77",
		"ref": r.ref, "sha": r.commit, "workflow": "Build Runtime Images", "event_name": r.event, "run_id": fmt.Sprint(1000 + r.runs), "run_attempt": "1",
		"runner_environment": "github-hosted", "workflow_ref": at(r.top), "workflow_sha": r.commit, "job_workflow_ref": at(file), "job_workflow_sha": r.commit,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.t.TempDir(), "claims.json")
	if err := os.WriteFile(path, claims, 0o600); err != nil {
		r.t.Fatal(err)
	}
	l, err := sigstore.StartLocal(r.t.Context(), r.helper, r.sigstore, sigstore.Claims{FileUnsafe: path})
	if err != nil {
		r.t.Fatal(err)
	}
	return []string{
		"CONTAINAI_SIGNING_CONFIG=" + l.Services.SigningConfig,
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + l.TokenURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + l.Bearer,
	}, func() { _ = l.Close() }
}
