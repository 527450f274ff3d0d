package rehearsal_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containai/containai/mage/rehearsal"
)

// Skopeo, which shares no code with the other clients here, logs in, copies an image between two
// packages, reads it without a login once it is public, and is refused the deletion.
func TestSkopeoMeetsTheSameRegistry(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("skopeo is not installed: apt-get install skopeo")
	}
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	n := w.as("owner").push("acme/base", "dev", "a")
	host := "docker://" + strings.TrimPrefix(w.url, "http://")
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), skopeo, args...).CombinedOutput()
		return string(out), err
	}

	if out, err := run("copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds=octocat:reader", "--dest-creds=octocat:owner",
		host+"/acme/base:dev", host+"/acme/copy:dev"); err != nil {
		t.Errorf("copy: %v\n%s", err, out)
	}
	w.github.Publish("acme/copy")
	if out, err := run("inspect", "--tls-verify=false", "--no-creds", "--raw", host+"/acme/copy@"+n.Digest.String()); err != nil || !strings.Contains(out, "application/vnd.test.v1") {
		t.Errorf("inspect: %v\n%s", err, out)
	}
	if out, err := run("delete", "--tls-verify=false", "--creds=octocat:owner", host+"/acme/copy:dev"); err == nil || !strings.Contains(out, "405") {
		t.Errorf("delete: %v\n%s", err, out)
	}
}
