package buildkit

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/tool"
)

// architecture is what one CPU is called by its neighbours.
type architecture struct{ platform, debian, qemu string }

// architectures that the builder can prepare a host for.
func architectures() []architecture {
	return []architecture{
		{"linux/386", "i386", "i386"},
		{"linux/amd64", "amd64", "x86_64"},
		{"linux/arm/v7", "armhf", "arm"},
		{"linux/arm64", "arm64", "aarch64"},
		{"linux/ppc64le", "ppc64el", "ppc64le"},
		{"linux/riscv64", "riscv64", "riscv64"},
		{"linux/s390x", "s390x", "s390x"},
	}
}

func architectureOf(platform string) (architecture, error) {
	all := architectures()
	i := slices.IndexFunc(all, func(a architecture) bool { return a.platform == platform })
	if i < 0 {
		return architecture{}, fault.New(fault.Invalid, "building for", platform, "no Debian architecture is known for it")
	}
	return all[i], nil
}

// checkPlatforms refuses before the first step what could only fail in the middle.
func (b *Builder) checkPlatforms(platforms []string) error {
	for _, p := range platforms {
		if b.kind == Embedded && b.host().blocked(p) || !slices.Contains(b.platforms, p) {
			e := fault.New(fault.Environment, "building for", p, "this BuildKit runs %s", strings.Join(b.platforms, ", "))
			if b.kind != Embedded {
				return e.WithHint("%s", nodeFix(p))
			}
			return e.WithHint("%s", b.host().fix(p))
		}
	}
	return nil
}

// nodeFix is what makes a builder run a platform that is not on this machine.
func nodeFix(platform string) string {
	return fmt.Sprintf("append a node that runs %s to the builder (docker buildx create --append), or register qemu on its host: docker run --privileged --rm tonistiigi/binfmt --install all", platform)
}

// isNative: a 64-bit PC runs the programs of a 32-bit one.
func isNative(platform string) bool {
	return platform == "linux/"+runtime.GOARCH || platform == "linux/386" && runtime.GOARCH == "amd64"
}

// parsePlatform reads "os/arch[/variant]".
func parsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return ocispec.Platform{}, fault.New(fault.Invalid, "reading platform", s, "it is os/architecture or os/architecture/variant")
	}
	return ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: strings.Join(parts[2:], "")}, nil
}

// canonical writes a platform as BuildKit names what it built; what is no platform stays as it is.
func canonical(s string) string {
	p, err := parsePlatform(s)
	if err != nil {
		return s
	}
	return graph.PlatformName(normal(p))
}

// host is where an emulator of this machine would be registered.
func (b *Builder) host() machine {
	return machine{binfmt: os.DirFS(cmp.Or(b.options.Binfmt, binfmt)), has: func(binary string) bool { return tool.Find(binary) != "" }}
}

// machine is what emulation depends on.
type machine struct {
	binfmt fs.FS // what the kernel has registered
	has    func(binary string) bool
}

// check makes sure that programs of a platform run on this machine, in any root directory:
// natively, or through a handler that the kernel opened at registration (flag F).
func (m machine) check(platform string) error {
	if isNative(platform) {
		return nil
	}
	if fix := m.fix(platform); fix != "" {
		return fault.New(fault.Environment, "running", platform, "no emulator is registered for it").WithHint("%s", fix)
	}
	return nil
}

// blocked reports whether an emulator is registered that works outside of containers only.
func (m machine) blocked(platform string) bool {
	a, err := architectureOf(platform)
	if err != nil || isNative(platform) {
		return false
	}
	e := m.emulation(a)
	return e.entry != "" && !e.fixed()
}

// binfmt is where the kernel lists foreign executables: Documentation/admin-guide/binfmt-misc.rst.
const binfmt = "/proc/sys/fs/binfmt_misc"

// fix returns the commands that this machine still needs, or "" when it needs none.
func (m machine) fix(platform string) string {
	a, err := architectureOf(platform)
	if err != nil {
		return "build it on a machine of that architecture"
	}
	return emulationCommands(a, m.emulation(a))
}

func (m machine) emulation(a architecture) emulation {
	entry, _ := fs.ReadFile(m.binfmt, "qemu-"+a.qemu) // absent means not registered
	_, err := fs.Stat(m.binfmt, "register")
	return emulation{installed: m.has("qemu-" + a.qemu + "-static"), mounted: err == nil, entry: string(entry)}
}

// emulation is what a machine has for one foreign architecture.
type emulation struct {
	installed bool   // the static emulator
	mounted   bool   // binfmt_misc
	entry     string // the kernel's entry; empty when there is none
}

// fixed reports whether the kernel holds the emulator open, so that it works in every container.
func (e emulation) fixed() bool {
	if !strings.HasPrefix(e.entry, "enabled") {
		return false
	}
	for line := range strings.Lines(e.entry) {
		if flags, ok := strings.CutPrefix(line, "flags: "); ok {
			return strings.Contains(flags, "F")
		}
	}
	return false
}

func emulationCommands(a architecture, e emulation) string {
	if e.fixed() {
		return ""
	}
	var commands []string
	if !e.installed {
		commands = append(commands, "apt-get update && apt-get install -y --no-install-recommends qemu-user-static")
	}
	if !e.mounted {
		commands = append(commands, fmt.Sprintf("mount -t binfmt_misc binfmt_misc %s", binfmt))
	}
	entry := fmt.Sprintf("%s/qemu-%s", binfmt, a.qemu)
	if e.entry != "" {
		commands = append(commands, "echo -1 > "+entry)
	}
	register := fmt.Sprintf("{ test -e %s || cat /usr/lib/binfmt.d/qemu-%s.conf > %s/register; }", entry, a.qemu, binfmt)
	return "as root: " + strings.Join(append(commands, register), " && ")
}
