package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// place is where and with what was measured.
type place struct {
	date             time.Time
	cpu, kernel      string
	processors       int
	memory           string // of /proc/meminfo
	load             string // the averages of 1, 5 and 15 minutes, when the last benchmark had ended
	golang, versions string
}

func (p place) String() string {
	return fmt.Sprintf("Measured on %s by `go tool mage bench`: %d processors (%s), %s, Linux %s, %s; %s. Load averages at the end: %s. Medians.",
		p.date.UTC().Format(time.DateOnly), p.processors, p.cpu, p.memory, p.kernel, p.golang, p.versions, p.load)
}

// look reads what the kernel says of this machine, and the peers' versions from their modules.
func look(root, cpu string, now time.Time) (place, error) {
	p := place{date: now, cpu: cpu, processors: runtime.NumCPU(), golang: "Go " + strings.TrimPrefix(runtime.Version(), "go")}
	for name, into := range map[string]*string{"/proc/sys/kernel/osrelease": &p.kernel, "/proc/loadavg": &p.load, "/proc/meminfo": &p.memory} {
		content, err := os.ReadFile(name)
		if err != nil {
			return place{}, err
		}
		*into = strings.TrimSpace(string(content))
	}
	p.load = strings.Join(strings.Fields(p.load)[:3], " ")
	p.memory = gibibytes(p.memory)
	versions, err := versionsOf(root)
	p.versions = versions
	return p, err
}

// total is the first line of /proc/meminfo.
var total = lazyregexp.New(`MemTotal:\s+(\d+) kB`)

func gibibytes(meminfo string) string {
	var kib float64
	if found := total.FindStringSubmatch(meminfo); found != nil {
		_, _ = fmt.Sscan(found[1], &kib)
	}
	return fmt.Sprintf("%.0f GiB", kib/(1<<20))
}

// versionsOf reads the peers' versions from the modules that they are built from.
func versionsOf(root string) (string, error) {
	var list []string
	for _, peer := range []struct{ name, file, module string }{
		{"Buildx", "mage/internal/buildkit/tools/buildx.mod", "github.com/docker/buildx"},
		{"Syft", "testdata/peers-scan/go.mod", "github.com/anchore/syft"},
		{"Trivy", "testdata/peers-scan/go.mod", "github.com/aquasecurity/trivy"},
		{"cosign", "testdata/peers3/go.mod", "github.com/sigstore/cosign/v3"},
		{"cosign", "testdata/peers/go.mod", "github.com/sigstore/cosign/v2"},
		{"crane", "testdata/peers/go.mod", "github.com/google/go-containerregistry"},
		{"oras", "testdata/peers/go.mod", "oras.land/oras"},
	} {
		content, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(peer.file)))
		if err != nil {
			return "", err
		}
		required := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(peer.module) + ` v(\S+)`)
		found := required.FindSubmatch(content)
		if found == nil {
			return "", fmt.Errorf("%s does not require %s", peer.file, peer.module)
		}
		list = append(list, peer.name+" "+string(found[1]))
	}
	return strings.Join(list, ", "), nil
}
