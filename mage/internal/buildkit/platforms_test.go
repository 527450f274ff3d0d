package buildkit

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/fault"
)

func TestEmulationCommandsNameOnlyWhatIsMissing(t *testing.T) {
	arm, err := architectureOf("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	const (
		install  = "apt-get install -y --no-install-recommends qemu-user-static"
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
