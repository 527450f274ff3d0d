package mage_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
)

// TestAReleaseOfGitHubActionsIsVerifiedByTheFamilysOwnPolicy releases with the variables that a
// GitHub Actions job has, against a Sigstore of this machine that issues what the public one would:
// the trusted root and the services differ, and nothing else.
func TestAReleaseOfGitHubActionsIsVerifiedByTheFamilysOwnPolicy(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	f := newFamilyClone(t)
	job := startJob(t, f, "refs/heads/main")
	run := func(env []string, args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), f.binary, args...)
		c.Dir, c.Env = f.dir, append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("mage %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run(job, "release:dev")
	result := run(job, "verify:channel", "dev", "-json")
	for _, want := range []string{
		`"https://token.actions.githubusercontent.com"`,
		`"https://github.com/containai/containai/.github/workflows/release.yml@refs/heads/main"`,
	} {
		if !strings.Contains(result, want) {
			t.Errorf("%s was not compared:\n%s", want, result)
		}
	}
	f.fails(t, fault.Environment, "trusted_root.json", nil, "verify:channel", "dev")
	stranger := startJob(t, f, "refs/heads/evil")
	f.fails(t, fault.Forged, "does not verify under the trusted root", append(job, stranger[0]), "verify:image", "tiny:dev")
}

// startJob starts a Sigstore for a job on a ref and returns the job's environment, its trusted root first.
func startJob(t *testing.T, f familyClone, ref string) []string {
	t.Helper()
	head, err := exec.CommandContext(t.Context(), "git", "-C", f.dir, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	commit := strings.TrimSpace(string(head))
	workflow := "containai/containai/.github/workflows/release.yml@" + ref
	claims, err := json.Marshal(map[string]string{
		"iss": sigstore.GitHubIssuer, "sub": "repo:containai/containai:ref:" + ref,
		"repository": "containai/containai", "repository_id": "4242", "repository_visibility": "public", "repository_owner": "containai", "repository_owner_id": "77",
		"ref": ref, "sha": commit, "workflow": "release", "event_name": "push", "run_id": "1001", "run_attempt": "1", "runner_environment": "github-hosted",
		"workflow_ref": workflow, "workflow_sha": commit, "job_workflow_ref": workflow, "job_workflow_sha": commit,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, helper := filepath.Join(dir, "claims.json"), filepath.Join(dir, "sigstore-local")
	if err := os.WriteFile(file, claims, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", helper, ".")
	build.Dir, build.Env = "sigstore-local", append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the helper: %v\n%s", err, out)
	}
	l, err := sigstore.StartLocal(t.Context(), helper, filepath.Join(dir, "sigstore"), sigstore.Claims{FileUnsafe: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return []string{
		"CONTAINAI_TRUSTED_ROOT=" + l.Services.TrustedRoot, "CONTAINAI_SIGNING_CONFIG=" + l.Services.SigningConfig,
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + l.TokenURL, "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + l.Bearer,
	}
}
