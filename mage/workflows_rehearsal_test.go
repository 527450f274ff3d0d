package mage_test

import (
	"encoding/base64"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestWorkflowsRehearsed executes the jobs of this repository's workflows from their files, on the tiny
// family: each on a machine of its own, with the documented variables and no other, against a model of
// GitHub with its registry, and a Sigstore that knows each job by its claims.
func TestWorkflowsRehearsed(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("a dozen jobs, each on a machine of its own: set CONTAINAI_DEEP=1")
	}
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-aarch64"); err != nil {
		t.Skip("no emulator for linux/arm64 is registered: build.yml builds for it")
	}
	g := newForge(t, newReleasedClone(t))
	var pull *flow

	t.Run("F4 a pull request from a fork", func(t *testing.T) {
		pull = g.start("pull-request.yml", trigger{event: "pull_request", ref: "refs/pull/7/merge", fork: true})
		pull.ends(t, map[string]string{"build": "success"})
		if n := g.writes.Load(); n != 0 {
			t.Errorf("%d writes reached GitHub", n)
		}
		pull.hasNoToken(t, "build")
	})
	t.Run("a push to main", func(t *testing.T) {
		run := g.start("release.yml", trigger{event: "push", ref: "refs/heads/main"})
		run.ends(t, map[string]string{
			"plan": "success", "build": "success", "build/amd64": "success", "build/arm64": "success", "build/inspect": "success", "build/publish": "success", "promote": "success",
		})
		for _, job := range []string{"build/amd64", "build/arm64", "build/inspect"} {
			run.hasNoToken(t, job)
		}
		for _, want := range []string{"# tiny", "```mermaid", "go tool mage verify:channel dev"} {
			if page := run.jobs["promote"].summary; !strings.Contains(page, want) {
				t.Errorf("the run's page lacks %q:\n%s", want, page)
			}
		}
		if log := run.jobs["build/publish"].log; strings.Contains(log, "▸ inspect") || strings.Contains(log, "▸ build") {
			t.Errorf("who signs built or scanned:\n%s", log)
		}
		run.shows(t, "verify:channel", "dev")
	})
	t.Run("the same push again", func(t *testing.T) {
		before := g.model.Snapshot()
		run := g.start("release.yml", trigger{event: "push", ref: "refs/heads/main"})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		if string(g.model.Snapshot()) != string(before) {
			t.Error("it changed the registry")
		}
	})
	t.Run("prod, by a person with a version", func(t *testing.T) {
		run := g.start("release.yml", trigger{event: "workflow_dispatch", ref: "refs/heads/main", inputs: map[string]string{"channel": "prod", "version": "v1.0.0", "commit": ""}})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		run.shows(t, "verify:channel", "prod")
	})
	t.Run("F4 a fork that writes", func(t *testing.T) {
		before := g.writes.Load()
		for _, args := range [][]string{{"release:dev", "-until=publish"}, {"release:prod"}, {"ops:hold", "-reason=x", "-apply"}, {"ops:prune", "-apply"}, {"ops:fsck", "-repair"}} {
			pull.refuses(t, "a pull request from a fork", args...)
		}
		somebody := pull.pretends(trigger{event: "push", ref: "refs/heads/main"})
		somebody.refuses(t, "no right to an identity token", "release:prod")
		for _, args := range [][]string{{"ops:rollback", "-reason=x", "-apply"}, {"ops:hold", "-reason=x", "-apply"}, {"ops:retag", "-from=dev", "-to=evil", "-apply"}} {
			somebody.refuses(t, "", args...)
		}
		if n := g.writes.Load(); n != before {
			t.Errorf("%d writes reached GitHub", n-before)
		}
	})
}

// newReleasedClone is the tiny family as this repository releases: by the same two identities, for two
// platforms, with a prod that takes what a machine without a registry and a database can make.
func newReleasedClone(t *testing.T) familyClone {
	t.Helper()
	f := newPlatformClone(t)
	file := filepath.Join(f.dir, "containai.yaml")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := os.ReadFile("../containai.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, trust := string(content), string(policy)
	text = text[:strings.Index(text, "\ntrust:")] + trust[strings.Index(trust, "\ntrust:"):]
	text = strings.Replace(text, "severities: [CRITICAL, HIGH], unscanned: refuse, local-base: refuse", "severities: [CRITICAL, HIGH], unscanned: allow, local-base: allow", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, ".gitignore"), []byte("/dist/\n/.containai/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.commit(t, "released as ContainAI is")
	return f
}

func (r *flow) ends(t *testing.T, want map[string]string) {
	t.Helper()
	for name, result := range want {
		switch got := r.jobs[name]; {
		case got == nil:
			t.Errorf("there is no %s", name)
		case got.result != result:
			t.Errorf("%s ended in %s, want %s:\n%s", name, got.result, result, got.log)
		}
	}
	if len(r.jobs) != len(want) {
		t.Errorf("%d jobs, want %d", len(r.jobs), len(want))
	}
	if t.Failed() {
		t.FailNow()
	}
	r.leaksNothing(t)
}

// hasNoToken: nothing in a job's environment opens anything.
func (r *flow) hasNoToken(t *testing.T, job string) {
	t.Helper()
	for _, variable := range r.jobs[job].env {
		name, value, _ := strings.Cut(variable, "=")
		if strings.Contains(name, "TOKEN") || strings.Contains(value, "ghs_") {
			t.Errorf("%s has %s", job, name)
		}
	}
}

// leaksNothing, F1: no token is in a log, a page, an output or a file that a job left, in any form.
func (r *flow) leaksNothing(t *testing.T) {
	t.Helper()
	var canaries []string
	for _, token := range r.tokens() {
		s := token.Secret
		canaries = append(canaries, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)),
			base64.StdEncoding.EncodeToString([]byte("octocat:"+s)), base64.StdEncoding.EncodeToString([]byte("x-access-token:"+s)), base64.RawURLEncoding.EncodeToString([]byte(s)))
	}
	looked := 0
	look := func(where, text string) {
		looked++
		for _, c := range canaries {
			if strings.Contains(text, c) {
				t.Errorf("%s shows a token", where)
			}
		}
	}
	for name, j := range r.jobs {
		log := slices.DeleteFunc(strings.Split(j.log, "\n"), func(line string) bool { return strings.HasPrefix(line, "::add-mask::") })
		look(name+"'s log", strings.Join(log, "\n"))
		look(name+"'s page", j.summary)
		if strings.Contains(strings.Join(log, "\n"), ".eyJ") {
			t.Errorf("%s's log shows an identity token", name)
		}
		if j.dir == "" {
			continue
		}
		err := filepath.WalkDir(j.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || strings.Contains(path, "/blobs/") {
				return err
			}
			content, err := os.ReadFile(path)
			look(path, string(content))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if looked < 2*len(r.jobs) {
		t.Errorf("%d things were looked at", looked)
	}
}

// again runs a command with the environment of the workflow's last job.
func (r *flow) again(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var last *jobRun
	for _, name := range []string{"promote", "build"} {
		if j := r.jobs[name]; j != nil && j.env != nil {
			last = j
			break
		}
	}
	c := exec.CommandContext(t.Context(), r.binary, args...)
	c.Dir = last.dir
	c.Env = append(slices.Clone(last.env), "CONTAINAI_REGISTRY="+strings.TrimPrefix(r.server.URL, "http://")+"/containai")
	out, _ := c.CombinedOutput()
	return string(out), c.ProcessState.ExitCode()
}

func (r *flow) shows(t *testing.T, args ...string) {
	t.Helper()
	if out, code := r.again(t, args...); code != 0 {
		t.Errorf("mage %v exits %d:\n%s", args, code, out)
	}
}

func (r *flow) refuses(t *testing.T, says string, args ...string) {
	t.Helper()
	if out, code := r.again(t, args...); code == 0 || !strings.Contains(out, says) {
		t.Errorf("mage %v exits %d, want a refusal that says %q:\n%s", args, code, says, out)
	}
}

// pretends is the same job with the variables of another event.
func (r *flow) pretends(tr trigger) *flow {
	r.t.Helper()
	other := &flow{forge: r.forge, trigger: tr, top: r.top, jobs: map[string]*jobRun{}}
	for name, j := range r.jobs {
		pretender := *j
		pretender.env = append(slices.Clone(j.env), other.variables(j.dir, terms{"runner": terms{"temp": r.t.TempDir()}})...)
		other.jobs[name] = &pretender
	}
	return other
}
