package tool

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
)

func TestEnsureHostNamesTheCommandWhenItMayNotInstall(t *testing.T) {
	needs := []Need{{"sh", "dash"}, {"no-such-tool-b", "zeta"}, {"no-such-tool-a", "alpha"}, {"no-such-tool-c", "alpha"}}
	err := ensureHost(t.Context(), needs, false, nil)
	if !errors.Is(err, fault.Environment) {
		t.Fatalf("got %v, want fault.Environment", err)
	}
	if hint, want := fault.HintOf(err), "install -y --no-install-recommends alpha zeta"; !strings.HasSuffix(hint, want) {
		t.Errorf("the hint is %q, want it to end in %q", hint, want)
	}
}

func TestEnsureHostIsQuietWhenNothingIsMissing(t *testing.T) {
	err := ensureHost(t.Context(), []Need{{"sh", "dash"}}, true, func(line string) { t.Errorf("progress: %s", line) })
	if err != nil {
		t.Error(err)
	}
}

// TestAptInstallReportsAnUnknownPackage runs the real apt-get; it changes nothing on the host
// but the package lists.
func TestAptInstallReportsAnUnknownPackage(t *testing.T) {
	if os.Geteuid() != 0 || Find("apt-get") == "" {
		t.Skip("needs root on Debian")
	}
	if testing.Short() {
		t.Skip("-short: refreshes the package lists")
	}
	err := ensureHost(t.Context(), []Need{{"no-such-tool", "containai-no-such-package"}}, true, nil)
	if !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "containai-no-such-package") {
		t.Errorf("got %v with hint %q, want fault.Environment naming the package", err, fault.HintOf(err))
	}
}
