package mage_test

import (
	"encoding/base64"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// TestWorkflowsRehearsed executes the jobs of this repository's workflows from their files, on the tiny
// family: each on a machine of its own, with the documented variables and no other, against a model of
// GitHub with its registry, and a Sigstore that knows each job by its claims.
func TestWorkflowsRehearsed(t *testing.T) {
	if os.Getenv("CONTAINAI_DEEP") == "" {
		t.Skip("it builds for two platforms, on a machine for each job: set CONTAINAI_DEEP=1; one platform is rehearsed always")
	}
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/qemu-aarch64"); err != nil {
		t.Skip("no emulator for linux/arm64 is registered: build.yml builds for it")
	}
	rehearse(t, false)
}

// TestWorkflowsRehearsedOnOnePlatform is the same, but for the jobs that build and inspect in build.yml: what
// they hand over was built by the job of a pull request, of the same commit.
func TestWorkflowsRehearsedOnOnePlatform(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	rehearse(t, true)
}

// rehearse plays a week of one repository; its scenes build on each other.
func rehearse(t *testing.T, short bool) {
	host, takeAway := serveAdvisories(t)
	g := newForge(t, newReleasedClone(t, host), short)
	main := trigger{event: "push", ref: "refs/heads/main"}
	var pull, dev *flow

	g.scene(t, "F4 a pull request from a fork", func(t *testing.T) {
		pull = g.start("pull-request.yml", trigger{event: "pull_request", ref: "refs/pull/7/merge", fork: true})
		pull.ends(t, map[string]string{"build": "success"})
		if n := g.seen.written(); n != 0 {
			t.Errorf("%d writes reached GitHub", n)
		}
		pull.hasNoToken(t, "build")
		pull.inspectsAlone(t, "build")
		g.built[g.commit] = pull.jobs["build"]
	})
	g.scene(t, "E7 a pull request whose build commands the runner", func(t *testing.T) {
		was := g.commit
		replace(t, filepath.Join(g.clone.dir, "images", "proxy", "Dockerfile"), "COPY", "RUN --network=none echo '::error::pwned'; echo '::set-env name=PATH::/pwned'; printf '\\033[2J'; false\nCOPY")
		g.propose("evil", "refs/heads/evil")
		run := g.start("pull-request.yml", trigger{event: "pull_request", ref: "refs/pull/9/merge", fork: true})
		run.exits(t, "build", fault.BuildFailed, "pwned")
		run.commandsNothing(t)
		git(t, g.clone.dir, "reset", "-q", "--hard", was)
		g.commit = was
	})
	g.scene(t, "a push to main", func(t *testing.T) {
		dev = g.start("release.yml", main)
		dev.ends(t, allOf("success"))
		if !short {
			for _, job := range []string{"build/amd64", "build/arm64", "build/inspect"} {
				dev.hasNoToken(t, job)
			}
			dev.inspectsAlone(t, "build/inspect")
		}
		for _, want := range []string{"# tiny", "```mermaid", "go tool mage verify:channel dev"} {
			if page := dev.jobs["promote"].summary; !strings.Contains(page, want) {
				t.Errorf("the run's page lacks %q:\n%s", want, page)
			}
		}
		if log := dev.jobs["build/publish"].log; strings.Contains(log, "▸ inspect") || strings.Contains(log, "▸ build") {
			t.Errorf("who signs built or scanned:\n%s", log)
		}
		if n := len(dev.jobs["build/publish"].workers) + len(dev.jobs["promote"].workers); n != 0 {
			t.Errorf("%d processes inspected beside a token", n)
		}
		dev.isSignedBy(t, "dev", "build.yml", "release.yml")
		dev.found(t, "CVE-2026-0001")
	})
	g.scene(t, "the succeeded run again, all its jobs", func(t *testing.T) {
		before := string(g.model.Snapshot())
		dev.forget()
		dev.runAgain(nil)
		dev.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		if string(g.model.Snapshot()) != before {
			t.Error("it changed the registry")
		}
	})
	g.scene(t, "E7 a version tag moves nothing, and its run says how it is released", func(t *testing.T) {
		before := g.seen.written()
		run := g.start("release.yml", trigger{event: "push", ref: "refs/tags/v1.0.0"})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "skipped"})
		if want := "gh workflow run release.yml -f channel=prod -f version=v1.0.0 -f commit=" + g.commit; !strings.Contains(run.jobs["plan"].log, want) {
			t.Errorf("its run does not say %q:\n%s", want, run.jobs["plan"].log)
		}
		if n := g.seen.written() - before; n != 0 {
			t.Errorf("%d writes reached GitHub", n)
		}
	})
	g.scene(t, "the nightly schedule refuses what is vulnerable", func(t *testing.T) {
		before := string(g.model.Snapshot())
		run := g.start("release.yml", trigger{event: "schedule", ref: "refs/heads/main"})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "failure"})
		run.exits(t, "promote", fault.Refused, "CVE-2026-0001")
		if string(g.model.Snapshot()) != before {
			t.Error("it changed the registry")
		}
	})
	g.scene(t, "care, on the first days", func(t *testing.T) {
		rehearseCare(t, g)
		if !short {
			takeAway() // build.yml scans with the mirror; a pull request knows no registry
		}
	})
	g.scene(t, "a fix, in a run that is disturbed and run again", func(t *testing.T) {
		replace(t, filepath.Join(g.clone.dir, "images", "base", "status"), "Version: 5.2.15-2", "Version: 99.0-2")
		g.push("fix CVE-2026-0001")
		if short {
			g.built[g.commit] = g.start("pull-request.yml", trigger{event: "pull_request", ref: "refs/pull/8/merge"}).jobs["build"]
		}
		rehearseFaults(t, g)
	})
	g.scene(t, "the nightly schedule", func(t *testing.T) {
		run := g.start("release.yml", trigger{event: "schedule", ref: "refs/heads/main"})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		run.isSignedBy(t, "nightly", "build.yml", "release.yml")
	})
	g.scene(t, "prod, by a person with a version", func(t *testing.T) {
		run := g.start("release.yml", trigger{event: "workflow_dispatch", ref: "refs/heads/main", inputs: map[string]string{"channel": "prod", "version": "v1.0.0", "commit": ""}})
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		run.isSignedBy(t, "prod", "build.yml", "release.yml")
	})
	g.scene(t, "nothing was written twice", func(t *testing.T) {
		if all := g.seen.twice(); len(all) > 0 {
			t.Errorf("written more than once:\n%s", strings.Join(all, "\n"))
		}
	})
	g.scene(t, "E7 a rollback, planned and then dispatched with an ugly reason", func(t *testing.T) {
		before := string(g.model.Snapshot())
		dev.shows(t, "nothing was done", "ops:rollback", "-channel=dev")
		if string(g.model.Snapshot()) != before {
			t.Error("a plan changed the registry")
		}
		ugly := "broken ::error::pwned</details><script>alert(1)</script> \x1b[2J ::set-env name=PATH::/pwned"
		run := g.start("rollback.yml", trigger{event: "workflow_dispatch", ref: "refs/heads/main", inputs: map[string]string{"channel": "dev", "to": "", "reason": ugly, "bad": "false"}})
		run.ends(t, map[string]string{"rollback": "success"})
		history, code := run.again(t, "ops:history", "-channel=dev")
		if !strings.Contains(history, "pwned") || strings.Contains(history, "\x1b") || len(obeyed(history)) > 0 || code != 0 {
			t.Errorf("the history shows the reason so (exit %d):\n%q", code, history)
		}
		run.isSignedBy(t, "dev", "build.yml", "rollback.yml")
	})
	g.scene(t, "care, when somebody moved a tag by hand", func(t *testing.T) {
		g.moves(t, "tiny-agent", "dev", "nightly")
		run := g.start("care.yml", trigger{event: "schedule", ref: "refs/heads/main"})
		mirror := "failure" // the database's makers do not answer
		if short {
			mirror = "success"
		}
		run.ends(t, careEnds("failure", "skipped", mirror))
		run.exits(t, "check", fault.Unverified, "tiny-agent:dev")
	})
	g.scene(t, "care, when a person wants the document signed anew", func(t *testing.T) {
		run := g.start("care.yml", trigger{event: "workflow_dispatch", ref: "refs/heads/main", inputs: map[string]string{"early": "true"}})
		if got := run.jobs["reissue"].result; got != "success" {
			t.Fatalf("reissue ended in %s:\n%s", got, run.jobs["reissue"].log)
		}
		if got := run.jobs["refresh"].result; got != "skipped" {
			t.Errorf("refresh ended in %s", got)
		}
		run.isSignedBy(t, "dev", "build.yml", "care.yml")
	})
	g.scene(t, "F4 a fork that writes", func(t *testing.T) {
		before := g.seen.written()
		for _, args := range [][]string{{"release:dev", "-until=publish"}, {"release:prod"}, {"ops:hold", "-reason=x", "-apply"}, {"ops:prune", "-apply"}, {"ops:fsck", "-repair"}} {
			pull.refuses(t, "a pull request from a fork", args...)
		}
		somebody := pull.pretends(main)
		somebody.refuses(t, "no right to an identity token", "release:prod")
		for _, args := range [][]string{{"ops:rollback", "-reason=x", "-apply"}, {"ops:hold", "-reason=x", "-apply"}, {"ops:retag", "-from=dev", "-to=evil", "-apply"}} {
			somebody.refuses(t, "", args...)
		}
		if n := g.seen.written(); n != before {
			t.Errorf("%d writes reached GitHub", n-before)
		}
	})
	g.scene(t, "only these jobs showed GitHub a token", func(t *testing.T) {
		want := []string{"build.yml publish", "care.yml check", "care.yml mirror", "care.yml prune", "care.yml reissue", "release.yml plan", "release.yml promote", "rollback.yml rollback"}
		if diff := cmp.Diff(want, g.seen.usedBy()); diff != "" {
			t.Errorf("jobs (-want +got):\n%s", diff)
		}
	})
}

// allOf is how every job of a release ends.
func allOf(result string) map[string]string {
	return map[string]string{
		"plan": result, "build": result, "build/amd64": result, "build/arm64": result, "build/inspect": result, "build/publish": result, "promote": result,
	}
}

// rehearseCare is the daily schedule, before and after a person made the packages public.
func rehearseCare(t *testing.T, g *forge) {
	daily := trigger{event: "schedule", ref: "refs/heads/main"}
	run := g.start("care.yml", daily)
	run.ends(t, careEnds("failure", "skipped", "success"))
	run.exits(t, "check", fault.Environment, "/packages/container/tiny-base/settings")

	for _, name := range []string{"tiny-base", "tiny", "tiny-agent", "tiny-proxy", "tiny-payload", "tiny-installer", "tiny-metadata", "tiny-vulnerabilities"} {
		if !g.model.Publish("containai/" + name) {
			t.Fatalf("there is no package %s", name)
		}
	}
	before := string(g.model.Snapshot())
	run = g.start("care.yml", daily)
	run.ends(t, careEnds("success", "success", "success"))
	if string(g.model.Snapshot()) != before {
		t.Error("a second day without a need changed the registry")
	}
}

// careEnds is how the jobs of the schedule end.
func careEnds(check, prune, mirror string) map[string]string {
	return map[string]string{"check": check, "prune": prune, "refresh": "success", "reissue": "skipped", "mirror": mirror}
}

// moves puts a tag where another one is, as somebody with a token and without this program would.
func (g *forge) moves(t *testing.T, image, tag, to string) {
	t.Helper()
	repo := must(g.client(t).Repo(image))
	was, _, err := repo.Resolve(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	n, there, err := repo.Resolve(t.Context(), to)
	if err != nil || !there || n.Digest == was.Digest {
		t.Fatalf("%s:%s is %v, %v, no other than %s", image, to, n.Digest, err, tag)
	}
	must(repo.MoveTag(t.Context(), release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: tag}, From: was.Digest, To: n}))
}

// client is somebody's who may push and is no job.
func (g *forge) client(t *testing.T) *registry.Client {
	t.Helper()
	somebody := auth.Credential{Username: "octocat", Password: somebodysToken}
	return must(registry.New(strings.TrimPrefix(g.server.URL, "http://")+"/containai", registry.Options{Login: somebody}))
}

// serveAdvisories serves a vulnerability database in Trivy's own format, as its makers do, until it is
// taken away, also out of the cache of this machine.
func serveAdvisories(t *testing.T) (host string, takeAway func()) {
	t.Helper()
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	host = strings.TrimPrefix(server.URL, "http://")
	n := publishAdvisories(t, host, madeNow(t, fixtureDatabase(t))) // no other test's
	takeAway = func() {
		server.Close()
		forgetDatabase(t, n)
	}
	t.Cleanup(takeAway)
	return host, takeAway
}

// newReleasedClone is the tiny family as this repository releases: by the same two identities and the
// same channels, for two platforms, scanned for vulnerabilities. Its base says that it has a bash that the
// database knows, and one of its build steps would like to command the runner.
func newReleasedClone(t *testing.T, advisories string) familyClone {
	t.Helper()
	f := newPlatformClone(t)
	ours := string(must(os.ReadFile("../containai.yaml")))
	file := filepath.Join(f.dir, "containai.yaml")
	text := string(must(os.ReadFile(file)))
	text = text[:strings.Index(text, "\nchannels:")] + ours[strings.Index(ours, "\nchannels:"):strings.Index(ours, "\n# What else stays")] +
		text[strings.Index(text, "\nledger:"):strings.Index(text, "\ntrust:")] + ours[strings.Index(ours, "\ntrust:"):]
	text = strings.Replace(text, "\n  workflow: .github", "\n  repository-id: 4242\n  owner-id: 77\n  workflow: .github", 1)
	files := map[string]string{
		file:                               text,
		filepath.Join(f.dir, ".gitignore"): "/dist/\n/.containai/\n",
		filepath.Join(f.dir, "images", "base", "debian_version"): "12.5\n",
		filepath.Join(f.dir, "images", "base", "os-release"):     "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		filepath.Join(f.dir, "images", "base", "status"): "Package: bash\nStatus: install ok installed\nArchitecture: all\nSection: shells\n" +
			"Maintainer: Somebody <somebody@example.com>\nInstalled-Size: 1\nVersion: 5.2.15-2\nDescription: a shell\n\n",
	}
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dockerfile := filepath.Join(f.dir, "images", "base", "Dockerfile")
	replace(t, dockerfile, "COPY", "COPY --chmod=0644 debian_version os-release /etc/\nCOPY --chmod=0644 status /var/lib/dpkg/status\nCOPY")
	replace(t, dockerfile, "uname -m >/etc/machine", "uname -m >/etc/machine && echo '::error::pwned by a build' && echo '::set-env name=PATH::/pwned'")
	f.commit(t, "released as ContainAI is")
	f.scanWith(t, advisories)
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
	r.commandsNothing(t)
}

// exits: a job's last command ended with a kind, and said so.
func (r *flow) exits(t *testing.T, job string, kind fault.Kind, says string) {
	t.Helper()
	if j := r.jobs[job]; j.code != int(kind) || !strings.Contains(j.log, says) {
		t.Errorf("%s exits %d, want %d and %q:\n%s", job, j.code, kind, says, j.log)
	}
}

// inspectsAlone: the kernel's own list of what the inspection's processes have in their environment holds
// what they need, and nothing that opens anything.
func (r *flow) inspectsAlone(t *testing.T, job string) {
	t.Helper()
	allowed := []string{"HOME", "XDG_CACHE_HOME", "TMPDIR", "TZ", "LC_ALL", "GOMEMLIMIT", "GOGC"}
	workers := r.jobs[job].workers
	if len(workers) == 0 {
		t.Errorf("%s inspected in no process of its own", job)
	}
	for _, environment := range workers {
		for _, variable := range environment {
			if name, _, _ := strings.Cut(variable, "="); !slices.Contains(allowed, name) {
				t.Errorf("the inspection of %s has %s", job, variable)
			}
		}
	}
}

// commandsNothing, E7: the runner obeys no line that somebody else wrote, and no terminal does.
func (r *flow) commandsNothing(t *testing.T) {
	t.Helper()
	for name, j := range r.jobs {
		for _, command := range obeyed(j.log) {
			if strings.HasPrefix(command, "::error::") || strings.HasPrefix(command, "::set-") {
				t.Errorf("%s's log commands the runner: %s", name, command)
			}
		}
		if strings.Contains(j.log, "\x1b") {
			t.Errorf("%s's log holds an escape sequence", name)
		}
		if strings.Contains(j.summary, "<script") {
			t.Errorf("%s's page holds a script:\n%s", name, j.summary)
		}
	}
}

// isSignedBy: who built what a channel serves and who moved it are these two workflows, by their
// certificates, as a consumer verifies them.
func (r *flow) isSignedBy(t *testing.T, channel, builder, mover string) {
	t.Helper()
	out, code := r.again(t, "verify:channel", channel, "-json")
	if code != 0 {
		t.Fatalf("verify:channel %s exits %d:\n%s", channel, code, out)
	}
	at := map[string]bool{}
	for _, m := range regexp.MustCompile(`containai/\.github/workflows/([a-z]+\.yml)@(refs/[a-z]+/[a-z0-9.]+)`).FindAllStringSubmatch(out, -1) {
		at[m[1]] = true
		if m[2] != "refs/heads/main" {
			t.Errorf("%s signed at %s", m[1], m[2])
		}
	}
	for _, want := range []string{builder, mover} {
		if !at[want] {
			t.Errorf("%s was not signed by %s: %v\n%s", channel, want, at, out)
		}
	}
}

// found: the reports that a run's publishing job took over name a finding, by a database.
func (r *flow) found(t *testing.T, id string) {
	t.Helper()
	platforms := []string{"linux-amd64", "linux-arm64"}
	if r.short {
		platforms = platforms[:1]
	}
	for _, platform := range platforms {
		report := readReport(t, filepath.Join(r.jobs["build/publish"].dir, "dist", r.commit, "evidence", "tiny", platform, "report.json"))
		if report.Vulnerabilities != evidence.Scanned || report.DatabaseDigest == "" || len(report.Findings) != 1 || report.Findings[0].ID != id {
			t.Errorf("%s: %s with %q, findings %+v, want %s", platform, report.Vulnerabilities, report.DatabaseDigest, report.Findings, id)
		}
	}
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
	for _, token := range r.tokens(r.count) {
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
	for _, name := range []string{"promote", "rollback", "reissue", "check", "build"} {
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

func (r *flow) shows(t *testing.T, says string, args ...string) {
	t.Helper()
	if out, code := r.again(t, args...); code != 0 || !strings.Contains(out, says) {
		t.Errorf("mage %v exits %d, want %q:\n%s", args, code, says, out)
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
	other := &flow{forge: r.forge, trigger: tr, top: r.top, run: r.run, attempt: r.attempt, count: r.count, jobs: map[string]*jobRun{}}
	for name, j := range r.jobs {
		pretender := *j
		pretender.env = append(slices.Clone(j.env), other.variables(j.dir, terms{"runner": terms{"temp": r.tempDir()}})...)
		other.jobs[name] = &pretender
	}
	return other
}
