package buildkit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/pack"
)

func TestEmulationCommandsNameOnlyWhatIsMissing(t *testing.T) {
	arm, err := architectureOf("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	const (
		install  = "apt-get update && apt-get install -y --no-install-recommends qemu-user-static"
		mount    = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc"
		register = "{ test -e /proc/sys/fs/binfmt_misc/qemu-aarch64 || cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register; }"
		fixed    = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n"
	)
	for name, test := range map[string]struct {
		has  emulation
		want string
	}{
		"a registered emulator needs nothing": {emulation{installed: true, mounted: true, entry: fixed}, ""},
		"a bare machine needs everything":     {emulation{}, "as root: " + install + " && " + mount + " && " + register},
		"an emulator that is not registered":  {emulation{installed: true, mounted: true}, "as root: " + register},
		"an emulator without the flag F":      {emulation{installed: true, mounted: true, entry: "enabled\nflags: PO\n"}, "as root: echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64 && " + register},
		"an emulator that is switched off":    {emulation{installed: true, mounted: true, entry: "disabled\nflags: F\n"}, "as root: echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64 && " + register},
	} {
		t.Run(name, func(t *testing.T) {
			if got := emulationCommands(arm, test.has); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// foreign is a platform that no machine of these tests is.
const foreign = "linux/arm64"

// TestMissingEmulationIsSeenBeforeTheBuild reads what a kernel has registered, from a directory that
// looks like binfmt_misc's.
func TestMissingEmulationIsSeenBeforeTheBuild(t *testing.T) {
	if isNative(foreign) {
		t.Skip("this machine is " + foreign)
	}
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	const f, none = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\n", "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: \n"
	for name, test := range map[string]struct {
		files map[string]string
		runs  Runs
		fix   string // a part of it
	}{
		"binfmt_misc is not mounted":        {nil, Missing, "mount -t binfmt_misc"},
		"nothing is registered":             {map[string]string{"register": "", "status": "enabled"}, Missing, "cat /usr/lib/binfmt.d/qemu-aarch64.conf"},
		"another architecture's emulator":   {map[string]string{"register": "", "qemu-s390x": f}, Missing, "qemu-aarch64"},
		"an emulator outside of containers": {map[string]string{"register": "", "qemu-aarch64": none}, Missing, "echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64"},
		"an emulator that works everywhere": {map[string]string{"register": "", "qemu-aarch64": f}, Emulated, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range test.files {
				write(t, filepath.Join(dir, file), content)
			}
			b := &Builder{kind: Embedded, options: Options{Binfmt: dir}, platforms: []string{"linux/amd64"}}
			if test.files["qemu-aarch64"] != "" {
				b.platforms = append(b.platforms, foreign) // BuildKit's own test runs outside of containers
			}
			if got := b.readiness(foreign); got.Runs != test.runs || !strings.Contains(got.Fix, test.fix) || (got.Fix == "") != (test.fix == "") {
				t.Errorf("the plan says %+v, want %q and a fix with %q", got, test.runs, test.fix)
			}
			steps := map[string]error{"the OS base": b.host().check(foreign), "the build": b.checkPlatforms([]string{foreign})}
			if test.runs == Missing && os.Geteuid() == 0 {
				// The cache is empty: a BuildKit that was compiled first would take minutes.
				_, steps["opening"] = Open(t.Context(), Options{State: t.TempDir(), Cache: t.TempDir(), Compress: pack.Compress, Binfmt: dir, Platforms: []string{foreign}, Now: time.Now})
			}
			for step, err := range steps {
				if test.runs == Emulated && err != nil {
					t.Errorf("%s: %v", step, err)
				}
				if test.runs == Missing && (!errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), test.fix)) {
					t.Errorf("%s: got %v with hint %q, want Environment and %q", step, err, fault.HintOf(err), test.fix)
				}
			}
		})
	}
}

func TestCheckPlatformsRefusesBeforeTheBuild(t *testing.T) {
	for _, kind := range []Kind{Embedded, Docker, Remote, Explicit} {
		b := &Builder{kind: kind, platforms: []string{"linux/amd64"}}
		if err := b.checkPlatforms([]string{"linux/amd64"}); err != nil {
			t.Errorf("%s refuses its own platform: %v", kind, err)
		}
		err := b.checkPlatforms([]string{"linux/amd64", "linux/s390x"})
		if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
			t.Errorf("%s: got %v with hint %q, want fault.Environment with a way out", kind, err, fault.HintOf(err))
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for _, good := range []string{"linux/amd64", "linux/arm/v7"} {
		if p, err := parsePlatform(good); err != nil || p.OS != "linux" {
			t.Errorf("parsePlatform(%q) = %+v, %v", good, p, err)
		}
	}
	for _, bad := range []string{"", "linux", "linux/arm/v7/x"} {
		if _, err := parsePlatform(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("parsePlatform(%q) = %v, want fault.Invalid", bad, err)
		}
	}
}
