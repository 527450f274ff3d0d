package mage

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

const (
	ourRepository = "containai/containai"
	ourCommit     = "0123456789012345678901234567890123456789"
	jobToken      = "ghs_of_the_job"
)

// job is a job of GitHub Actions as this process sees it, and as GitHub's issuer speaks of it.
type job struct {
	event, ref string
	fork       bool              // the pull request comes from another repository
	claims     map[string]string // beside those of the event; nil: the job has no right to a token
}

// builds and moves are the claims of the two identities in containai.yaml.
func builds() map[string]string {
	return map[string]string{"job_workflow_ref": ourRepository + "/.github/workflows/build.yml@refs/heads/main"}
}

func moves(workflow, ref string) map[string]string {
	full := ourRepository + "/.github/workflows/" + workflow + "@" + ref
	return map[string]string{"workflow_ref": full, "job_workflow_ref": full, "ref": ref}
}

func with(claims map[string]string, name, value string) map[string]string {
	claims[name] = value
	return claims
}

// workshopOf is a workshop in a job, at a model of GitHub whose writes are counted.
func workshopOf(t *testing.T, j job) (*workshop, *atomic.Int64) {
	t.Helper()
	claims := map[string]string{
		"iss": sigstore.GitHubIssuer, "event_name": j.event, "ref": j.ref, "sha": ourCommit, "repository_id": "4242",
		"workflow_ref": ourRepository + "/.github/workflows/release.yml@refs/heads/main",
	}
	for name, value := range j.claims {
		claims[name] = value
	}
	scopes := []string{"write:packages"}
	if j.claims != nil {
		scopes = append(scopes, "id-token:write")
	}
	github := rehearsal.New(rehearsal.Options{Claims: claims, Tokens: []rehearsal.Token{{Secret: jobToken, Login: "octocat", Scopes: scopes, Repository: ourRepository}}})
	var writes atomic.Int64
	w := patient(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes.Add(1)
		}
		github.ServeHTTP(rw, r)
	}), environment{}, family.Policy{})
	w.fam = containaiFamily(t)
	log := &bytes.Buffer{}
	w.env.stderr, w.console = log, actions.NewConsole(log, rand.Reader)
	w.env.token, w.env.actor = jobToken, "octocat"
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	base := w.client.Base().String()
	client, err := registry.New(base, registry.Options{Login: w.login(base), Pause: time.Microsecond, Budget: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w.client = client
	w.env.job = runningJob(t, j)
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
	if j.claims != nil {
		t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", w.env.github+"/oidc/token?api-version=2.0")
		t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", jobToken)
	}
	return w, &writes
}

// runningJob writes the payload of a job's event and says what the runner says.
func runningJob(t *testing.T, j job) actions.Variables {
	t.Helper()
	payload := map[string]any{"ref": j.ref, "repository": map[string]any{"full_name": ourRepository, "default_branch": "main"}}
	if strings.HasPrefix(j.event, "pull_request") {
		from := ourRepository
		if j.fork {
			from = "stranger/containai"
		}
		payload["pull_request"] = map[string]any{"head": map[string]any{"repo": map[string]any{"full_name": from}}}
	}
	content, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return actions.Read(func(name string) string {
		return map[string]string{
			"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": j.event, "GITHUB_EVENT_PATH": file, "GITHUB_REF": j.ref,
			"GITHUB_SHA": ourCommit, "GITHUB_REPOSITORY": ourRepository,
		}[name]
	})
}

// mayDo asks for everything that writes, and returns how each is answered.
func mayDo(t *testing.T, w *workshop) map[string]error {
	t.Helper()
	repositories, err := verify.Connect(w.client, w.fam.Members())
	if err != nil {
		t.Fatal(err)
	}
	p := &pipeline.Pipeline{Family: w.fam, Registry: repositories}
	src := release.Source{Commit: ourCommit}
	answers := map[string]error{"prune": w.mayWrite(true)}
	for _, until := range []pipeline.Stage{pipeline.UntilInspect, pipeline.UntilPublish, pipeline.UntilAttest, pipeline.UntilPromote} {
		_, answers[string(until)] = w.mayRelease(t.Context(), p, wish{channel: "prod", until: until}, src)
	}
	answers["rollback"] = w.mayApply(t.Context(), intent{channel: "prod"})
	return answers
}

// F4: a pull request publishes, signs and moves nothing: by its event, and by the token that it does
// not get. It may build and inspect.
func TestF4APullRequestWritesNowhere(t *testing.T) {
	for name, c := range map[string]struct {
		job  job
		want fault.Kind
	}{
		"from a fork": {job{event: "pull_request", ref: "refs/pull/7/merge", fork: true}, fault.Refused},
		"from a fork, with rights that it should not have": {job{event: "pull_request", ref: "refs/pull/7/merge", fork: true, claims: builds()}, fault.Refused},
		"from a branch":                          {job{event: "pull_request", ref: "refs/pull/7/merge", claims: builds()}, fault.Refused},
		"with main's rights":                     {job{event: "pull_request_target", ref: "refs/heads/main", fork: true, claims: builds()}, fault.Refused},
		"behind another workflow":                {job{event: "workflow_run", ref: "refs/heads/main", claims: builds()}, fault.Refused},
		"on a branch of the repository":          {job{event: "push", ref: "refs/heads/feature", claims: builds()}, fault.Refused},
		"whose variables say that it was a push": {job{event: "push", ref: "refs/heads/main"}, fault.Environment},
	} {
		t.Run(name, func(t *testing.T) {
			w, writes := workshopOf(t, c.job)
			for what, err := range mayDo(t, w) {
				if what == "inspect" {
					if err != nil {
						t.Errorf("it may not build and inspect: %v", err)
					}
					continue
				}
				if what == "prune" && c.want == fault.Environment {
					continue // takes no identity: its token has no right to delete, which the registry says
				}
				if !errors.Is(err, c.want) || fault.HintOf(err) == "" {
					t.Errorf("%s = %v with hint %q, want %v and a hint", what, err, fault.HintOf(err), c.want)
				}
			}
			if n := writes.Load(); n != 0 {
				t.Errorf("%d writes were sent", n)
			}
		})
	}
}

// F9: a job is who its identity token says, whatever its variables say. Who builds may publish and
// sign; who moves may move; neither is the other.
func TestF9OnlyTheTokensClaimsMoveAChannel(t *testing.T) {
	main, tag := "refs/heads/main", "refs/tags/v1.2.3"
	for name, c := range map[string]struct {
		job  job
		want string // what is allowed besides inspecting and pruning
	}{
		"the builder":                  {job{event: "push", ref: main, claims: builds()}, "publish attest"},
		"the release workflow":         {job{event: "push", ref: main, claims: moves("release.yml", main)}, "rollback"},
		"the same, on a version tag":   {job{event: "push", ref: tag, claims: moves("release.yml", tag)}, ""},
		"pretending not to be on one":  {job{event: "push", ref: main, claims: moves("release.yml", tag)}, ""},
		"the rollback workflow":        {job{event: "workflow_dispatch", ref: main, claims: moves("rollback.yml", main)}, "rollback"},
		"the schedule":                 {job{event: "schedule", ref: main, claims: moves("care.yml", main)}, "rollback"},
		"another workflow":             {job{event: "push", ref: main, claims: moves("test.yml", main)}, ""},
		"a builder of another commit":  {job{event: "push", ref: main, claims: with(builds(), "sha", strings.Repeat("9", 40))}, ""},
		"a builder on another branch":  {job{event: "push", ref: main, claims: with(builds(), "ref", "refs/heads/evil")}, ""},
		"a builder for another event":  {job{event: "push", ref: main, claims: with(builds(), "event_name", "pull_request")}, ""},
		"a builder of another name":    {job{event: "push", ref: main, claims: with(builds(), "repository", "evil/containai")}, ""},
		"a builder without an id":      {job{event: "push", ref: main, claims: with(builds(), "repository_id", "")}, ""},
		"a builder on its own machine": {job{event: "push", ref: main, claims: with(builds(), "runner_environment", "self-hosted")}, ""},
		"a token of another issuer":    {job{event: "push", ref: main, claims: with(builds(), "iss", "https://evil.example")}, ""},
		"a token for somebody else":    {job{event: "push", ref: main, claims: with(builds(), "aud", "https://github.com/containai")}, ""},
		"a rollback of a feature":      {job{event: "workflow_dispatch", ref: main, claims: with(moves("rollback.yml", "refs/heads/x"), "ref", "refs/heads/x")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, writes := workshopOf(t, c.job)
			answers := mayDo(t, w)
			var allowed []string
			for _, what := range []string{"publish", "attest", "promote", "rollback"} {
				if err := answers[what]; err == nil {
					allowed = append(allowed, what)
				} else if kind, ok := fault.KindOf(err); !ok || kind != fault.Refused && kind != fault.Environment {
					t.Errorf("%s = %v, want Refused", what, err)
				}
			}
			if got := strings.Join(allowed, " "); got != c.want {
				t.Errorf("it may %q, want %q: %v", got, c.want, answers)
			}
			if n := writes.Load(); n != 0 {
				t.Errorf("%d writes were sent", n)
			}
		})
	}
}

// A mover that is no builder promotes what is published, and nothing else.
func TestAMoverPromotesOnlyWhatIsPublished(t *testing.T) {
	w, _ := workshopOf(t, job{event: "push", ref: "refs/heads/main", claims: moves("release.yml", "refs/heads/main")})
	err := mayDo(t, w)["promote"]
	if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "builder") {
		t.Errorf("an unpublished commit: %v, want Refused for its builder", err)
	}
}

// What is published and not signed whole would be inspected again and signed, beside the rights to move. And
// who may push can put a record there that is none of the family's: nobody stumbles over it.
func TestAMoverPromotesNothingThatIsNotSignedWhole(t *testing.T) {
	for image, want := range map[string]struct {
		kind fault.Kind
		says string
	}{
		"containai-base": {fault.Refused, "builder"},
		"containai":      {fault.Conflict, "not containai-base"},
		"evil":           {fault.Conflict, "no evil"},
	} {
		w, writes := workshopOf(t, job{event: "push", ref: "refs/heads/main", claims: moves("release.yml", "refs/heads/main")})
		_, record := handedOver(t)
		record.Family, record.Images = w.fam.Name, map[string]release.Image{image: record.Images["tiny"]}
		publishRecord(t, w, record)
		before := writes.Load()
		if err := mayDo(t, w)["promote"]; !errors.Is(err, want.kind) || !strings.Contains(err.Error(), want.says) {
			t.Errorf("a record of %s without evidence: %v, want %v that names %q", image, err, want.kind, want.says)
		}
		if n := writes.Load() - before; n != 0 {
			t.Errorf("%d writes were sent", n)
		}
	}
}

// publishRecord puts a record where a release puts it, as anybody can who may push.
func publishRecord(t *testing.T, w *workshop, record release.Record) {
	t.Helper()
	content, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := w.client.Repo(w.fam.ArtifactOf(family.Metadata))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := graph.PushBytes(t.Context(), metadata, release.RecordType, content)
	if err != nil {
		t.Fatal(err)
	}
	node, err := graph.PackArtifact(t.Context(), metadata, release.RecordType, []graph.Node{layer}, nil)
	if err == nil {
		_, err = metadata.TagImmutable(t.Context(), record.Source.Tag(), node)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Where the policy names the repository's number, a repository that took its name is another one.
func TestF9ARepositoryThatTookTheNameIsAnother(t *testing.T) {
	for id, want := range map[string]bool{"4242": true, "31337": false} {
		w, _ := workshopOf(t, job{event: "push", ref: "refs/heads/main", claims: builds()})
		w.fam.Trust.Signer.RepositoryID = id
		prod := w.fam.Channels["prod"]
		prod.Trust.Signer.RepositoryID = id
		w.fam.Channels["prod"] = prod
		if err := mayDo(t, w)["publish"]; (err == nil) != want {
			t.Errorf("a policy of repository %s: %v", id, err)
		}
	}
}

// F1: the identity token is hidden before anything else is written, and no error shows it.
func TestF1TheIdentityTokenIsMaskedAndNeverShown(t *testing.T) {
	w, _ := workshopOf(t, job{event: "push", ref: "refs/heads/main", claims: with(builds(), "ref", "refs/heads/evil")})
	answers := mayDo(t, w)
	log := fmt.Sprint(w.env.stderr)
	if !strings.Contains(log, "::add-mask::ey") {
		t.Fatalf("no token was masked:\n%.200s", log)
	}
	_, rest, _ := strings.Cut(log, "::add-mask::")
	token, _, _ := strings.Cut(rest, "\n")
	for what, err := range answers {
		if err != nil && (strings.Contains(exit(err, nil).Error(), token) || strings.Contains(exit(err, nil).Error(), jobToken)) {
			t.Errorf("%s shows a token: %v", what, err)
		}
	}
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "::add-mask::") && strings.TrimSpace(line) != "" {
			t.Errorf("the log has more than masks: %q", line)
		}
	}
}

// On a machine of its own, and at a registry of its own, a command is held back by nothing here: the
// tests of a pull request release to one.
func TestAJobsOwnRegistryIsNotGuarded(t *testing.T) {
	w, _ := workshopOf(t, job{event: "pull_request", ref: "refs/pull/7/merge", fork: true})
	w.env.github = "https://api.github.com"
	for what, err := range mayDo(t, w) {
		if err != nil {
			t.Errorf("%s = %v", what, err)
		}
	}
	elsewhere, _ := workshopOf(t, job{event: "push", ref: "refs/heads/main"})
	elsewhere.env.job = actions.Variables{}
	for what, err := range mayDo(t, elsewhere) {
		if err != nil {
			t.Errorf("outside of a job: %s = %v", what, err)
		}
	}
}

// A job logs in with its own token, at GitHub's registry and nowhere else.
func TestAJobsTokenGoesToGitHubAlone(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for base, want := range map[string]string{"ghcr.io/containai": jobToken, "registry.example/containai": "", "127.0.0.1:5000/tiny": "", "ghcr.io.evil.example/containai": ""} {
		w := &workshop{session: &session{env: environment{token: jobToken, actor: "octocat", github: "https://api.github.com"}}}
		client, err := registry.New(base, registry.Options{Login: w.login(base)})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := client.Password(t.Context()); err != nil || got != want {
			t.Errorf("%s is shown %q, %v; want %q", base, got, err, want)
		}
	}
}

// F4: every command that writes asks first, by the variables that a job really has.
func TestF4EveryCommandThatWritesAsksFirst(t *testing.T) {
	w, writes := workshopOf(t, job{event: "pull_request", ref: "refs/pull/7/merge", fork: true})
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../testdata/families/tiny")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "-A"}, {"-c", "user.name=tiny", "-c", "user.email=tiny@example.com", "commit", "-q", "-m", "tiny"}} {
		if out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	t.Setenv("CONTAINAI_FAMILY", filepath.Join(dir, "containai.yaml"))
	t.Setenv("CONTAINAI_REGISTRY", w.client.Base().String())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	plan := filepath.Join(t.TempDir(), "plan.json")
	if err := savePlan(plan, savedPlan{Change: pipeline.Change{Summary: "x"}}); err != nil {
		t.Fatal(err)
	}
	in := intent{channel: "prod", to: "dev", reason: "x", apply: true}
	for name, c := range map[string]command{
		"release:dev -until=publish": releaseOf(wish{channel: "dev", until: pipeline.UntilPublish}),
		"release:dev -until=attest":  releaseOf(wish{channel: "dev", until: pipeline.UntilAttest}),
		"release:prod":               releaseOf(wish{channel: "prod", until: pipeline.UntilPromote}),
		"ops:promote":                promote(in),
		"ops:rollback":               rollback(in),
		"ops:hold":                   hold(in, true),
		"ops:unhold":                 hold(in, false),
		"ops:retag":                  retag(in, "dev"),
		"ops:reconcile":              reconcile(in),
		"ops:refresh":                refresh(in, false),
		"ops:adopt":                  adopt(in),
		"ops:apply":                  applyPlan(plan),
		"ops:prune":                  prune(pruning{apply: true}),
		"ops:undelete":               undelete("", true),
		"ops:fsck -repair":           fsck(true),
		"inspect:mirror":             mirror(true),
	} {
		t.Run(name, func(t *testing.T) {
			env, err := readEnvironment()
			if err != nil {
				t.Fatal(err)
			}
			env.stderr, env.job, env.github = io.Discard, w.env.job, w.env.github
			s := newSession(env, people)
			defer s.close()
			if err := c(t.Context(), s); !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "a pull request from a fork") {
				t.Errorf("it ends with %v, want Refused", err)
			}
		})
	}
	if n := writes.Load(); n != 0 {
		t.Errorf("%d writes were sent", n)
	}
}
