package mage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/internal/sigstore"
)

// steps runs a job on a machine of its own: an empty workspace, nothing but the documented variables,
// and an identity where the job may have one.
func (r *flow) steps(w *mage.Workflow, j *mage.WorkflowJob, name string, s terms, run *jobRun) {
	r.t.Helper()
	run.dir = filepath.Join(r.tempDir(), "workspace")
	writable := filepath.Join(r.origin, "writable")
	_ = os.Remove(writable)
	if (*j.Permissions)["contents"] == "write" {
		r.program(writable, "")
	}
	base := append(r.variables(run.dir, s), "PWD="+run.dir)
	if (*j.Permissions)["id-token"] == "write" {
		identity, closeIdentity := r.identity(w.File(), r.disturbed[name])
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
		if err := r.step(step, base, s, run, &log, r.disturbed[name]); err != nil {
			run.result, s["failed"] = "failure", true
			fmt.Fprintf(&log, "step %d: %v\n", i, err)
		}
		if run.ended != "" {
			run.result, r.cancelled, s["failed"], s["cancelled"] = "cancelled", true, true, true
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
	run.left, run.outputs = run.outputs, outputs
}

func (r *flow) evaluate(s terms, env map[string]string) []string {
	r.t.Helper()
	var all []string
	host := strings.TrimPrefix(r.server.URL, "http://")
	for _, key := range slices.Sorted(maps.Keys(env)) {
		value := strings.Replace(s.text(r.t, env[key]), "ghcr.io/", host+"/", 1) // the one thing that is elsewhere
		if r.short {
			value = strings.Replace(value, "linux/amd64,linux/arm64", "linux/amd64", 1)
		}
		all = append(all, key+"="+value)
	}
	return all
}

func (r *flow) step(step *mage.WorkflowStep, base []string, s terms, run *jobRun, log *bytes.Buffer, d disturbance) error {
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
		return r.script(step, append(slices.Clone(base), r.evaluate(s, step.Env)...), run, log, d)
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
	to := filepath.Join(r.tempDir(), with["name"])
	r.artifacts[with["name"]] = to
	return os.CopyFS(to, os.DirFS(from))
}

// script runs a step as the runner does: bash -e, on a file.
func (r *flow) script(step *mage.WorkflowStep, env []string, run *jobRun, log *bytes.Buffer, d disturbance) error {
	r.t.Helper()
	dir := r.tempDir()
	file, output, summary := filepath.Join(dir, "script.sh"), filepath.Join(dir, "output"), filepath.Join(dir, "summary")
	if err := os.WriteFile(file, []byte(step.Run), 0o600); err != nil {
		return err
	}
	c := exec.Command("bash", "-e", file)
	c.Dir, c.Env, c.WaitDelay = run.dir, append(env, "GITHUB_OUTPUT="+output, "GITHUB_STEP_SUMMARY="+summary), orphanPatience
	run.env = c.Env
	out := &spoken{says: d.says, now: make(chan struct{})}
	c.Stdout, c.Stderr = out, out
	if d.sends != nil && strings.Contains(step.Run, "/mage\" ") {
		r.seen.watch(d.sends, func() { d.act(out.hear) })
		defer r.seen.watch(nil, nil)
	}
	if err := c.Start(); err != nil {
		return err
	}
	stopWatching := watchWorkers(c.Process.Pid)
	var err error
	run.ended, err = await(c, out.now, d.kills)
	run.workers = append(run.workers, stopWatching()...)
	if run.code == 0 {
		run.code = c.ProcessState.ExitCode()
	}
	fmt.Fprintf(log, "$ %s\n%s", step.Run, out.String())
	content, _ := os.ReadFile(output)
	run.outputs = terms{}
	for name, value := range mage.OutputsOf(string(content)) {
		run.outputs[name] = value
	}
	page, _ := os.ReadFile(summary)
	run.summary += string(page)
	return err
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
	home := r.tempDir()
	file := filepath.Join(home, "event.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	env := []string{
		"CI=true", "GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=" + r.event, "GITHUB_EVENT_PATH=" + file, "GITHUB_REF=" + r.ref, "GITHUB_SHA=" + r.commit,
		"GITHUB_REPOSITORY=" + forgeRepository, "GITHUB_REPOSITORY_OWNER=containai", "GITHUB_ACTOR=octocat", "GITHUB_RUN_ID=" + fmt.Sprint(r.run), "GITHUB_RUN_ATTEMPT=" + fmt.Sprint(r.attempt),
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
func (r *flow) identity(file string, d disturbance) ([]string, func()) {
	r.t.Helper()
	at := func(file string) string { return forgeRepository + "/.github/workflows/" + file + "@" + r.ref }
	claims := map[string]string{
		"iss": sigstore.GitHubIssuer, "sub": "repo:containai@77/containai@4242:ref:" + r.ref,
		"repository": forgeRepository, "repository_id": "4242", "repository_visibility": "public", "repository_owner": "containai", "repository_owner_id": "77",
		"ref": r.ref, "sha": r.commit, "workflow": "Build Runtime Images", "event_name": r.event, "run_id": fmt.Sprint(r.run), "run_attempt": fmt.Sprint(r.attempt),
		"runner_environment": "github-hosted", "workflow_ref": at(r.top), "workflow_sha": r.commit, "job_workflow_ref": at(file), "job_workflow_sha": r.commit,
	}
	for name, value := range d.claims {
		claims[name] = value
	}
	l := r.startIssuer(r.sigstore, claims)
	url, bearer, closeRogue := l.TokenURL, l.Bearer, func() error { return nil }
	if d.rogue {
		other := r.startIssuer(filepath.Join(r.tempDir(), "rogue"), claims)
		url, bearer, closeRogue = other.TokenURL, other.Bearer, other.Close
	}
	closeProxy := func() {}
	if d.issuer != nil {
		proxy := httptest.NewServer(d.issuer(url))
		url, closeProxy = proxy.URL+"/?", proxy.Close
	}
	config := l.Services.SigningConfig
	if d.config != nil {
		config = d.config(r.t, config)
	}
	return []string{"CONTAINAI_SIGNING_CONFIG=" + config, "ACTIONS_ID_TOKEN_REQUEST_URL=" + url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + bearer}, func() {
		closeProxy()
		_, _ = closeRogue(), l.Close()
	}
}

func (r *flow) startIssuer(dir string, claims map[string]string) *sigstore.Local {
	r.t.Helper()
	content, err := json.Marshal(claims)
	if err != nil {
		r.t.Fatal(err)
	}
	path := filepath.Join(r.tempDir(), "claims.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	l, err := sigstore.StartLocal(r.t.Context(), r.helper, dir, sigstore.Claims{FileUnsafe: path})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}
