package mage_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/verify"
)

// TestConsumersOfThisMachinesReleases installs and verifies what this machine's own Sigstore signed,
// without mage: the trusted root is all that a consumer has to bring.
func TestConsumersOfThisMachinesReleases(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit and other root directories need root")
	}
	f := newFamilyClone(t)
	script, err := os.ReadFile("../artifacts/installer/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, filepath.Join(f.dir, "artifacts/installer/install.sh"), string(script))
	writeAll(t, filepath.Join(f.dir, "artifacts/payload/bin/tiny"), "#!/bin/sh\necho tiny\n")
	git(t, f.dir, append(commitArgs("ContainAI's installer"), "-a")...)
	f.release(t)
	if again := f.mage(t, "release:dev"); !strings.Contains(again, "nothing to do, nothing written") {
		t.Errorf("the same release again printed:\n%s", again)
	}
	f.mage(t, "verify:channel", "dev")
	f.mage(t, "verify:export", "-out=evidence.tar")
	if out := f.mage(t, "verify:offline", "evidence.tar"); !strings.Contains(out, "channel dev verified") {
		t.Errorf("verify:offline printed:\n%s", out)
	}

	packed, err := os.ReadFile(filepath.Join(f.dir, "dist/latest/tiny-installer.sh"))
	if err != nil {
		t.Fatal(err)
	}
	state, err := local.OpenState(filepath.Join(f.dir, ".containai"))
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	m := newRootFS(t, "dash").machine(t)
	writeAll(t, m.path("ours.json"), read(t, filepath.Join(state.SigstoreDir(), "trusted_root.json")))
	writeAll(t, m.path("theirs.json"), read(t, "internal/sigstore/testdata/trusted_root.json"))
	from := []string{"--registry", served.Host + "/tiny", "--channel", "dev"}
	m.want(int(fault.Environment), string(packed), from...)
	m.want(int(fault.Forged), string(packed), append(slices.Clone(from), "--trusted-root", "theirs.json")...)
	m.want(int(fault.Environment), string(packed), from...) // a root that proved nothing is not kept
	m.want(0, string(packed), append(slices.Clone(from), "--trusted-root", "ours.json")...)
	m.want(0, string(packed))
	m.wantCommit(git(t, f.dir, "rev-parse", "HEAD"))

	v := verifierCLI{t, m.prefix("verifier"), []string{
		"-family", filepath.Join(f.dir, "containai.yaml"), "-policy", filepath.Join(t.TempDir(), "policy.yaml"), "-state", t.TempDir(),
		"-registry", served.Host + "/tiny", "-trusted-root", m.path("ours.json"),
	}}
	writeAll(t, v.flags[3], "instance: local\n")
	v.answers(filepath.Join(f.dir, "evidence.tar"))
	v.refuses(m.path("theirs.json"))
}

func read(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// verifierCLI is the consumer's verifier, as the installer left it, and what it is told each time.
type verifierCLI struct {
	t       *testing.T
	program string
	flags   []string
}

// run returns exit status, standard output and standard error.
func (v verifierCLI) run(args ...string) (int, string, string) {
	v.t.Helper()
	var out, errs strings.Builder
	c := exec.CommandContext(v.t.Context(), v.program, args...)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil && c.ProcessState == nil {
		v.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// answers: every command, for people and for scripts.
func (v verifierCLI) answers(file string) {
	for _, q := range [][]string{{"channel", "dev"}, {"image", "tiny:dev"}, {"sbom", "tiny"}, {"sbom", "tiny", "-against=tiny-base"}, {"offline", file}} {
		v.t.Run(strings.Join(q[:1], " "), func(t *testing.T) {
			v := verifierCLI{t, v.program, v.flags}
			status, out, errs := v.run(slices.Concat(q, v.flags)...)
			if status != 0 || out != "" || !strings.Contains(errs, "verified: ") && !strings.Contains(errs, "changes") {
				t.Errorf("%v = %d, %q\n%s", q, status, out, errs)
			}
			status, out, errs = v.run(slices.Concat(q[:1], v.flags, []string{"-json"}, q[1:])...)
			if status != 0 || errs != "" || !json.Valid([]byte(out)) {
				t.Errorf("%v -json = %d, %q\n%s", q, status, out, errs)
			}
		})
	}
	var r verify.Result
	_, out, _ := v.run(slices.Concat([]string{"channel", "dev", "-json"}, v.flags)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Generation != 1 || len(r.Checks) < 20 {
		v.t.Errorf("generation %d with %d checks, %v", r.Generation, len(r.Checks), err)
	}
}

// refuses: each with the status of docs/exit-codes.md.
func (v verifierCLI) refuses(theirs string) {
	without := slices.DeleteFunc(slices.Clone(v.flags), func(s string) bool { return s == "-trusted-root" || s == v.flags[len(v.flags)-1] })
	for name, c := range map[string]struct {
		args   []string
		status fault.Kind
	}{
		"no command":             {nil, fault.Invalid},
		"an unknown command":     {[]string{"trust-me"}, fault.Invalid},
		"an unknown flag":        {[]string{"channel", "dev", "-insecure"}, fault.Invalid},
		"no family":              {[]string{"channel", "dev"}, fault.Invalid},
		"too many arguments":     {append([]string{"channel", "dev", "prod"}, v.flags...), fault.Invalid},
		"an unknown image":       {append([]string{"image", "other:dev"}, v.flags...), fault.Invalid},
		"no root":                {append([]string{"channel", "dev"}, without...), fault.Environment},
		"another machine's root": {append([]string{"channel", "dev", "-trusted-root", theirs}, without...), fault.Forged},
		"another registry's tag": {append([]string{"image", "tiny:never"}, v.flags...), fault.Unverified},
		"a channel of nobody":    {append([]string{"channel", "prod"}, v.flags...), fault.Unverified},
		"a file that is none":    {append([]string{"offline", theirs}, v.flags...), fault.Forged},
	} {
		v.t.Run(name, func(t *testing.T) {
			status, out, errs := verifierCLI{t, v.program, nil}.run(c.args...)
			if status != int(c.status) || out != "" || !strings.Contains(errs, "Error: ") {
				t.Errorf("%v = %d, want %d; %q\n%s", c.args, status, c.status, out, errs)
			}
		})
	}
	if status, _, errs := v.run("-h"); status != 0 || !strings.Contains(errs, "usage:") {
		v.t.Errorf("-h = %d\n%s", status, errs)
	}
}
