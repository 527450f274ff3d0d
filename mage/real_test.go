package mage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheRealFamilyIsReleasedAndVerified runs the README's first command on a clone of this
// repository, compares what it prints with what the page shows,
// verifies the channel, and runs it again: the second run writes nothing.
func TestTheRealFamilyIsReleasedAndVerified(t *testing.T) {
	if testing.Short() || os.Getenv("CI") == "" && os.Geteuid() != 0 {
		t.Skip("it builds the whole family as root, which takes minutes")
	}
	clone, binary := t.TempDir(), compileMagefile(t)
	if out, err := exec.Command("git", "clone", "-q", "..", clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v\n%s", err, out)
	}
	run := func(args ...string) string {
		t.Helper()
		c := exec.Command(binary, args...)
		c.Dir = clone
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("mage %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	first := run("release:dev")
	t.Log(first)
	if strings.Contains(first, "NOT SCANNED") { // as where there is no vulnerability database, which the page shows
		wantShown(t, "README.md", "go tool mage release:dev", []byte(first))
	}
	if got := run("verify:channel", "dev"); !strings.Contains(got, "all hold") {
		t.Errorf("verify:channel dev printed:\n%s", got)
	}
	if got := run("release:dev"); !strings.Contains(got, "nothing to do, nothing written") || !strings.Contains(got, " 0 writes") {
		t.Errorf("the second run printed:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(clone, "dist", "latest", "report.html")); err != nil {
		t.Error(err)
	}
}
