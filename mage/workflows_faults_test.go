package mage_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage"
	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// rehearseFaults takes one commit to dev in a run that is cancelled, robbed of its token and lied to in
// every job that matters, and run again each time: "Re-run failed jobs". What an attempt did stays, the next
// one does what is missing, and no attempt but the last moves the channel.
func rehearseFaults(t *testing.T, g *forge) {
	main := trigger{event: "push", ref: "refs/heads/main"}
	served := g.tagged(t, "dev")
	isPut := func(path string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == http.MethodPut && strings.Contains(r.URL.Path, path) }
	}
	nth := func(n int, is func(*http.Request) bool) func(*http.Request) bool {
		return func(r *http.Request) bool {
			if is(r) {
				n--
			}
			return n == 0
		}
	}
	var run *flow
	unmoved := func(t *testing.T) {
		t.Helper()
		if now := g.tagged(t, "dev"); now != served {
			t.Errorf("dev moved from %s to %s", served, now)
		}
	}
	first := disturbance{issuer: unavailable}
	if !g.short {
		g.scene(t, "A2 cancelled in build", func(t *testing.T) {
			before := g.seen.written()
			run = g.startDisturbed("release.yml", main, map[string]disturbance{"build/amd64": {says: "▸ build"}})
			run.cancels(t, "build/amd64", fault.Interrupted, "run the same command again")
			if n := g.seen.written() - before; n != 0 {
				t.Errorf("%d writes reached GitHub", n)
			}
		})
		run.runAgain(map[string]disturbance{"build/publish": first})
	} else {
		run = g.startDisturbed("release.yml", main, map[string]disturbance{"build/publish": first})
	}
	g.scene(t, "F10 the issuer of identities is down", func(t *testing.T) {
		run.fails(t, "build/publish", fault.Unavailable, "OIDC")
		if tag := g.tagged(t, "sha-"+g.commit); tag != "" {
			t.Errorf("it was published: %s", tag)
		}
	})
	for name, c := range map[string]struct {
		d    disturbance
		kind fault.Kind
		says string
	}{
		"F10 a token for somebody else":           {disturbance{issuer: forSomebodyElse}, fault.Environment, `not for "sigstore"`},
		"F9 a token that claims another workflow": {disturbance{claims: map[string]string{"job_workflow_ref": forgeRepository + "/.github/workflows/test.yml@refs/heads/main"}}, fault.Refused, "builder"},
		"F9 a token that claims another commit":   {disturbance{claims: map[string]string{"sha": strings.Repeat("9", 40)}}, fault.Refused, "commit"},
		"F9 a token of a repository of the name":  {disturbance{claims: map[string]string{"repository_id": "31337"}}, fault.Refused, "31337"},
	} {
		g.scene(t, name, func(t *testing.T) {
			before := g.seen.written()
			run.runAgain(map[string]disturbance{"build/publish": c.d})
			run.fails(t, "build/publish", c.kind, c.says)
			if n := g.seen.written() - before; n != 0 {
				t.Errorf("%d writes reached GitHub", n)
			}
		})
	}
	for name, c := range map[string]struct {
		handover terms
		kind     fault.Kind
		says     string
	}{
		"the inspection said nothing of what it left": {terms{}, fault.Invalid, "$CONTAINAI_HANDOVER"},
		"the inspection spoke of other files":         {terms{"handover": "sha256:" + strings.Repeat("0", 64)}, fault.Forged, "the earlier job left"},
	} {
		g.scene(t, name, func(t *testing.T) {
			before, inspected := g.seen.written(), *run.jobs["build/inspect"]
			run.jobs["build/inspect"].outputs = c.handover
			run.runAgain(nil)
			run.fails(t, "build/publish", c.kind, c.says)
			if n := g.seen.written() - before; n != 0 {
				t.Errorf("%d writes reached GitHub", n)
			}
			*run.jobs["build/inspect"] = inspected
		})
	}
	g.scene(t, "B14 the job's token is revoked while it publishes", func(t *testing.T) {
		attempt := g.attempts + 1
		run.runAgain(map[string]disturbance{"build/publish": {
			sends: nth(2, isPut("/manifests/")),
			then:  func() { g.model.Revoke(secretFor("build.yml", "publish", attempt)) },
		}})
		run.fails(t, "build/publish", fault.Environment, "")
		unmoved(t)
		if tag := g.tagged(t, "sha-"+g.commit); tag != "" {
			t.Errorf("it got as far as the tags: %s", tag)
		}
	})
	g.scene(t, "A2 cancelled while it publishes", func(t *testing.T) {
		run.runAgain(map[string]disturbance{"build/publish": {sends: nth(3, isPut("/manifests/"))}})
		run.cancels(t, "build/publish", fault.Interrupted, "run the same command again")
		unmoved(t)
	})
	g.scene(t, "A1 the machine is lost while it publishes", func(t *testing.T) {
		run.runAgain(map[string]disturbance{"build/publish": {sends: nth(2, isPut("/manifests/sha-")), kills: true}})
		if j := run.jobs["build/publish"]; j.ended != "killed" {
			t.Errorf("it ended by %q:\n%s", j.ended, j.log)
		}
		unmoved(t)
	})
	g.scene(t, "F9 a token of an issuer that somebody made", func(t *testing.T) {
		attested := g.attested(t)
		run.runAgain(map[string]disturbance{"build/publish": {rogue: true}})
		if j := run.jobs["build/publish"]; j.result != "failure" || j.code == 0 {
			t.Errorf("publish ended in %s, exit %d:\n%s", j.result, j.code, j.log)
		}
		unmoved(t)
		if n := g.attested(t); n != attested {
			t.Errorf("%d statements were attached", n-attested)
		}
	})
	g.scene(t, "F10 no certificates are made", func(t *testing.T) {
		attested := g.attested(t)
		run.runAgain(map[string]disturbance{"build/publish": {config: withoutCertificates}})
		run.fails(t, "build/publish", fault.Unavailable, "attest pending")
		unmoved(t)
		if n := g.attested(t); n != attested {
			t.Errorf("%d statements were attached, unsigned", n-attested)
		}
	})
	g.scene(t, "A2 cancelled while it promotes", func(t *testing.T) {
		run.runAgain(map[string]disturbance{"promote": {sends: nth(3, isPut("/manifests/dev"))}})
		run.cancels(t, "promote", fault.Partial, "mage ops:reconcile")
	})
	g.scene(t, "run again, it is finished", func(t *testing.T) {
		run.runAgain(nil)
		run.ends(t, allOf("success"))
		if now := g.tagged(t, "dev"); now == served {
			t.Error("dev did not move")
		}
		run.isSignedBy(t, "dev", "build.yml", "release.yml")
	})
	g.scene(t, "run again when all is done, it writes nothing", func(t *testing.T) {
		before := string(g.model.Snapshot())
		run.forget()
		run.runAgain(nil)
		run.ends(t, map[string]string{"plan": "success", "build": "skipped", "promote": "success"})
		if string(g.model.Snapshot()) != before {
			t.Error("it changed the registry")
		}
	})
}

// cancels: the job ended by itself after the first signals, said how to go on, and left nothing behind;
// later jobs did not begin.
func (r *flow) cancels(t *testing.T, job string, kind fault.Kind, says string) {
	t.Helper()
	j := r.jobs[job]
	if j == nil || j.result != "cancelled" || j.ended != "interrupt" {
		t.Fatalf("%s was not cancelled: %+v", job, j)
	}
	r.exits(t, job, kind, says)
	if all := remaining(j.dir); len(all) > 0 {
		t.Errorf("%s left behind %q", job, all)
	}
	if after := r.jobs["promote"]; job != "promote" && after.result != "skipped" {
		t.Errorf("promote ended in %s", after.result)
	}
	r.leaksNothing(t)
	r.commandsNothing(t)
}

// fails: the job failed with a kind, and nothing came after it.
func (r *flow) fails(t *testing.T, job string, kind fault.Kind, says string) {
	t.Helper()
	j := r.jobs[job]
	if j == nil || j.result != "failure" {
		t.Fatalf("%s did not fail: %+v", job, j)
	}
	r.exits(t, job, kind, says)
	if after := r.jobs["promote"]; after.result != "skipped" {
		t.Errorf("promote ended in %s", after.result)
	}
	r.leaksNothing(t)
	r.commandsNothing(t)
}

// tagged is what a tag of the base image shows, or "".
func (g *forge) tagged(t *testing.T, tag string) string {
	t.Helper()
	n, _, err := must(g.client(t).Repo("tiny-base")).Resolve(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	return n.Digest.String()
}

// attested counts the signed statements about the base image that the registry lists.
func (g *forge) attested(t *testing.T) (n int) {
	t.Helper()
	repo := must(mage.NewRegistryPort(g.client(t), []string{"tiny-base"})).Repository("tiny-base")
	tags, err := repo.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		of, isList := strings.CutPrefix(tag, "sha256-")
		if !isList {
			continue
		}
		subject, there, err := repo.ByDigest(t.Context(), digest.NewDigestFromEncoded(digest.SHA256, of))
		if err != nil || !there {
			t.Fatalf("%s lists evidence of what is not there: %v", tag, err)
		}
		for _, r := range must(repo.Referrers(t.Context(), subject)) {
			if r.ArtifactType == evidence.BundleType {
				n++
			}
		}
	}
	return n
}
