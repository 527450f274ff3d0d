package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const familyFile = "../../../containai.yaml"

// ask runs a command line and returns its exit status and what it printed.
func ask(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	q := question{gitHub: "https://api.github.com", now: time.Now(), out: &stdout, err: &stderr}
	status = explain(&stderr, q.run(t.Context(), args))
	return status, stdout.String(), stderr.String()
}

func TestMisuseSaysHowItIsUsed(t *testing.T) {
	for _, args := range [][]string{nil, {"trust-me"}, {"channel"}, {"channel", "dev", "prod"}, {"channel", "dev", "-insecure"}, {"fetch", "dev"}, {"-json"}} {
		status, out, errs := ask(t, args...)
		if status != int(fault.Invalid) || out != "" || !strings.HasPrefix(errs, "usage: containai-verify COMMAND") {
			t.Errorf("%q = %d, %q\n%s", args, status, out, errs)
		}
	}
	for _, args := range [][]string{{"help"}, {"-h"}, {"--help"}, {"channel", "-h"}} {
		if status, _, errs := ask(t, args...); status != 0 || !strings.Contains(errs, "-trusted-root") {
			t.Errorf("%q = %d\n%s", args, status, errs)
		}
	}
}

// Nothing that is missing or wrong is taken for something else, and nothing is asked before it is there.
func TestWhatAQuestionNeeds(t *testing.T) {
	write := func(content string) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	local := write("instance: local\n")
	for name, c := range map[string]struct {
		args   []string
		status fault.Kind
		says   string
	}{
		"a family":                     {[]string{"channel", "dev"}, fault.Invalid, "-family"},
		"a family that is there":       {[]string{"channel", "dev", "-family", "nowhere.yaml"}, fault.Environment, "nowhere.yaml"},
		"a family that is one":         {[]string{"channel", "dev", "-family", write("schema: 1\n")}, fault.Invalid, "name"},
		"a family of sensible size":    {[]string{"channel", "dev", "-family", write(strings.Repeat("#\n", maxText))}, fault.Invalid, "more than"},
		"a registry":                   {[]string{"channel", "dev", "-family", familyFile}, fault.Invalid, "-registry"},
		"a registry with an owner":     {[]string{"channel", "dev", "-family", familyFile, "-registry", "ghcr.io"}, fault.Invalid, "ghcr.io"},
		"a policy that is one":         {[]string{"channel", "dev", "-family", familyFile, "-registry", "127.0.0.1:1/a", "-policy", write("issuer: [\n")}, fault.Invalid, "file"},
		"a policy that trusts anybody": {[]string{"channel", "dev", "-family", familyFile, "-registry", "127.0.0.1:1/a", "-policy", write("{}\n")}, fault.Invalid, "missing"},
		"a root that is not built in":  {[]string{"channel", "dev", "-family", familyFile, "-registry", "127.0.0.1:1/a", "-policy", local}, fault.Environment, "root"},
		"a root that is there":         {[]string{"channel", "dev", "-family", familyFile, "-registry", "127.0.0.1:1/a", "-trusted-root", "nowhere.json"}, fault.Environment, "nowhere.json"},
		"a file of evidence":           {[]string{"offline", familyFile, "-family", familyFile}, fault.Forged, "evidence file"},
		"an image of the family":       {[]string{"image", "other:dev", "-family", familyFile, "-registry", "127.0.0.1:1/a"}, fault.Invalid, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, errs := ask(t, c.args...)
			if status != int(c.status) || out != "" || !strings.Contains(errs, c.says) {
				t.Errorf("%q = %d, want %d and %q in\n%s", c.args, status, c.status, c.says, errs)
			}
		})
	}
}

// Who brings a policy says anew whose signatures count, and is still refused what the family took back.
func TestABroughtPolicyKeepsWhatTheFamilyRefuses(t *testing.T) {
	const refusals = `
max-age: 90d
max-jump: 5
require: {platform: [signature], payload: [signature, sbom]}
deny: [{commit: 1111111111111111111111111111111111111111, reason: leaks}]
`
	const more = `
max-age: 10d
max-jump: 7
require: {platform: [scan]}
deny: [{commit: 2222222222222222222222222222222222222222, reason: stolen}]
`
	parse := func(content string) family.Policy {
		t.Helper()
		p, err := family.ParsePolicy("policy.yaml", []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	own := parse("instance: local\n" + refusals)
	leaks, stolen := own.Deny[0], parse("instance: local\n" + more).Deny[0]
	for name, c := range map[string]struct {
		brought string
		want    family.Policy
	}{
		"the installer's": {"instance: local\n", family.Policy{
			Instance: family.Local, MaxAge: 90 * 24 * time.Hour, MaxJump: 5, Deny: []family.Denial{leaks}, Require: own.Require,
		}},
		"one with limits and demands of its own": {"instance: local\n" + more, family.Policy{
			Instance: family.Local, MaxAge: 10 * 24 * time.Hour, MaxJump: 7, Deny: []family.Denial{leaks, stolen},
			Require: map[family.SubjectKind][]family.Demand{
				family.PlatformManifest: {family.DemandScan}, family.PayloadManifest: {family.DemandSignature, family.DemandSBOM},
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, instead(own, parse(c.brought))); diff != "" {
				t.Error(diff)
			}
		})
	}
	key := family.Policy{Instance: family.Key, MaxJump: family.DefaultJump}
	if got := instead(own, key); got.MaxAge != 0 || len(got.Deny) != 1 {
		t.Errorf("of a key, whose signatures have no time, it wants %+v", got)
	}
}

// Row E7: what a registry answers stays within its line, and obliges no runner.
func TestE7WhatARegistrySaysIsNoLineOfOurs(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"x\n::set-output name=digest::sha256:0\nchannel prod verified: 39 checks, all hold"}]}`)
	}))
	defer server.Close()
	status, out, errs := ask(t, "channel", "prod", "-family", familyFile, "-registry", strings.TrimPrefix(server.URL, "http://")+"/containai", "-state", t.TempDir())
	if status != int(fault.Environment) || out != "" || !strings.Contains(errs, "set-output") {
		t.Fatalf("%d, %q\n%s", status, out, errs)
	}
	for line := range strings.Lines(errs) {
		if strings.HasPrefix(line, "::") || strings.HasPrefix(line, "channel prod") {
			t.Errorf("it printed the line %q", line)
		}
	}
}

// Whatever an error says, and by whichever way it came, no line of it is a workflow command.
func TestE7AnErrorIsNoWorkflowCommand(t *testing.T) {
	var out bytes.Buffer
	explain(&out, fault.New(fault.Forged, "reading", "a\n::error::x", "b\n  ::add-mask::y").WithHint("c\n::stop-commands::z"))
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(strings.TrimSpace(line), "::") {
			t.Errorf("it printed the line %q", line)
		}
	}
}

func TestWhatIsPrintedCannotSteerATerminal(t *testing.T) {
	_, _, errs := ask(t, "channel", "dev", "-family", "\x1b[2Jno\nwhere")
	if strings.Contains(errs, "\x1b") {
		t.Errorf("it printed %q", errs)
	}
}
