package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/tool"
)

// Limits of a smoke test.
const (
	smokeTime   = time.Minute     // a test that does not say Within
	smokeMemory = 2 << 30         // bytes that a test and all it starts may use
	smokeSlack  = 5 * time.Minute // for loading the image, beside the tests themselves
	smokeKept   = 64 << 10        // bytes of output that Prints is matched against
	smokeOutput = 2000            // bytes of output that the result holds
	smokeFile   = 1 << 30         // bytes of any one file that a test writes, so also of all it prints
)

// Smoke runs commands inside one built image, without network unless a test declares it, within limits
// of time and memory, and returns a result for each in the same order. A command that fails is a
// result; an error means that it could not be run.
//
// The image comes from the layout by the digest of its platform manifest. It must hold a POSIX
// shell and the programs timeout and head (coreutils, or BusyBox).
func (b *Builder) Smoke(ctx context.Context, layout string, n graph.Node, platform string, tests []family.Smoke) ([]evidence.SmokeResult, error) {
	if len(tests) == 0 {
		return []evidence.SmokeResult{}, nil
	}
	done, err := b.work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	dir, err := b.tempDir("smoke")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := writeSmoke(dir, tests); err != nil {
		return nil, fault.Wrap(err, fault.Environment, "preparing", "smoke tests")
	}
	limited, cancel := context.WithTimeout(ctx, smokeLimit(tests))
	defer cancel()
	err = b.runSmoke(limited, dir, platform, fmt.Sprintf("built=oci-layout://%s@%s", layout, n.Digest))
	switch {
	case err == nil:
		return readSmoke(filepath.Join(dir, "out"), tests)
	case limited.Err() != nil && ctx.Err() == nil:
		return nil, fault.New(fault.BuildFailed, "running smoke tests on", n.Digest.String(), "they did not end within %s", smokeLimit(tests))
	}
	return nil, fault.Wrap(err, fault.BuildFailed, "running smoke tests on", n.Digest.String())
}

// runSmoke builds the tests in dir. A Buildx or a BuildKit from before memory limits runs them without.
func (b *Builder) runSmoke(ctx context.Context, dir, platform, built string) error {
	run := func(more ...string) error {
		meter := newMeter(b.options.Progress)
		cmd := b.buildxCommand(slices.Concat([]string{
			"build", "--builder", b.name, "--progress=rawjson", "--no-cache", "--provenance=false", "--sbom=false",
			"--platform", platform, "--build-context", built, "--output", "type=local,dest=" + filepath.Join(dir, "out"),
			"--file", filepath.Join(dir, "Dockerfile")}, more, []string{filepath.Join(dir, "context")})...)
		cmd.Lines = meter.line
		err := tool.Run(ctx, cmd, fault.BuildFailed)
		if err == nil {
			return nil
		}
		return b.explain(ctx, err, meter.failure())
	}
	err := run("--resource", fmt.Sprintf("memory=%d", smokeMemory))
	if err != nil && noMemoryLimit.MatchString(err.Error()) {
		b.notice("smoke tests run without a memory limit: this BuildKit knows none")
		return run()
	}
	return err
}

// noMemoryLimit is what a Buildx says that does not know the flag, and a BuildKit without the ability.
var noMemoryLimit = lazyregexp.New(`unknown flag: --resource|exec\.meta\.linux\.resources`)

func smokeLimit(tests []family.Smoke) time.Duration {
	limit := smokeSlack
	for _, t := range tests {
		limit += within(t)
	}
	return limit
}

func within(t family.Smoke) time.Duration {
	if t.Within <= 0 {
		return smokeTime
	}
	return t.Within
}

// smokeScript is the same for every test: the limits, of a file in POSIX's blocks of 512 bytes and of time
// in seconds, and the test's own argument vector come as positional parameters, so that no shell ever
// reads them as words of a script.
const smokeScript = `d=/.containai-smoke/results; ulimit -f "$1"; limit=$2; shift 2; ` +
	`timeout -k 1 "$limit" "$@" >"$d/all" 2>&1 </dev/null; echo $? >"$d/exit"; ` +
	`head -c 65536 "$d/all" >"$d/output"; rm -f "$d/all"`

// writeSmoke writes a build that runs every test in a stage of its own, as the image's own user,
// and gathers what each printed. The directory for results is open to every user.
func writeSmoke(dir string, tests []family.Smoke) error {
	results := filepath.Join(dir, "context", "smoke", "results")
	if err := os.MkdirAll(results, 0o755); err != nil {
		return err
	}
	dockerfile, err := smokeDockerfile(tests)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600)
}

func smokeDockerfile(tests []family.Smoke) (string, error) {
	var run, gather strings.Builder
	for i, t := range tests {
		seconds := strconv.Itoa(int(math.Ceil(within(t).Seconds())))
		argv := append([]string{"/bin/sh", "-c", smokeScript, "smoke", strconv.Itoa(smokeFile / 512), seconds}, t.Run...)
		encoded, err := json.Marshal(argv) // its escapes also keep "<<" from being read as a here-document
		if err != nil {
			return "", err
		}
		network := "none"
		if t.Network {
			network = "default"
		}
		fmt.Fprintf(&run, "FROM prepared AS test%d\nRUN --network=%s %s\n", i, network, encoded)
		fmt.Fprintf(&gather, "COPY --from=test%d /.containai-smoke/results/exit /.containai-smoke/results/output /%d/\n", i, i)
	}
	return "FROM built AS prepared\nCOPY --chmod=0777 smoke /.containai-smoke\n" + run.String() + "FROM scratch\n" + gather.String(), nil
}

func readSmoke(dir string, tests []family.Smoke) ([]evidence.SmokeResult, error) {
	results := make([]evidence.SmokeResult, len(tests))
	for i, t := range tests {
		home := filepath.Join(dir, strconv.Itoa(i))
		exit, err := readResult(home, "exit")
		if err != nil {
			return nil, fault.Wrap(err, fault.BuildFailed, "reading smoke test", t.Name)
		}
		code, err := strconv.Atoi(strings.TrimSpace(string(exit)))
		if err != nil {
			return nil, fault.Wrap(err, fault.BuildFailed, "reading smoke test", t.Name)
		}
		output, err := readResult(home, "output")
		if err != nil {
			return nil, fault.Wrap(err, fault.BuildFailed, "reading smoke test", t.Name)
		}
		if results[i], err = judge(t, code, output); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// readResult reads a file that a test left: its code may be anybody's, and could have put a link to a file
// of this machine there, or a pipe.
func readResult(home, name string) ([]byte, error) {
	root, err := os.OpenRoot(home)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > smokeKept {
		return nil, fmt.Errorf("%s is no file of at most %d bytes: it is %s, of %d bytes", name, smokeKept, info.Mode().Type(), info.Size())
	}
	return root.ReadFile(name)
}

// Exit codes of a test that its limits ended.
const (
	timedOut = 124 // timeout(1) when the time was over
	killed   = 137 // 128 + SIGKILL, which is how the kernel ends what uses too much memory
	tooLarge = 153 // 128 + SIGXFSZ, which is how it ends what writes too large a file
)

// judge decides one test; it is pure.
func judge(t family.Smoke, exit int, output []byte) (evidence.SmokeResult, error) {
	prints, err := regexp.Compile(t.Prints)
	if err != nil {
		return evidence.SmokeResult{}, fault.Wrap(err, fault.Invalid, "reading smoke test", t.Name)
	}
	output = bytes.TrimRight(output[:min(len(output), smokeKept)], " \t\r\n") // so that ^agent$ matches what `id -un` prints
	passed := exit == t.Exit && prints.Match(output)
	text := strings.ToValidUTF8(string(output[:min(len(output), smokeOutput)]), "\uFFFD")
	switch {
	case exit == timedOut && !passed:
		text = fmt.Sprintf("it did not end within %s\n%s", within(t), text)
	case exit == killed && !passed:
		text = fmt.Sprintf("it was killed: a test may use %d MiB of memory\n%s", smokeMemory>>20, text)
	case exit == tooLarge && !passed:
		text = fmt.Sprintf("it was stopped: a test may write %d MiB to one file, and print as much; let it say less\n%s", smokeFile>>20, text)
	}
	return evidence.SmokeResult{Name: t.Name, Passed: passed, Exit: exit, Output: strings.ToValidUTF8(text[:min(len(text), smokeOutput)], "")}, nil
}
