package family_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const trusted = `instance: public
issuer: https://token.actions.githubusercontent.com
repository: https://github.com/acme/widget
repository-id: 4242
owner-id: 77
workflow: .github/workflows/release.yml
ref: refs/heads/main
runner: github-hosted
max-age: 90d
max-jump: 500
require:
  platform: [signature, provenance, sbom, scan]
deny:
  - {commit: 0123456789abcdef0123456789abcdef01234567, reason: it leaks}
movers:
  - {workflow: .github/workflows/move.yml}
`

func TestParsePolicyReadsEverything(t *testing.T) {
	got, err := family.ParsePolicy("policy.yaml", []byte(trusted))
	if err != nil {
		t.Fatal(err)
	}
	signer := family.Signer{
		Issuer: "https://token.actions.githubusercontent.com", Repository: "https://github.com/acme/widget", RepositoryID: "4242", OwnerID: "77",
		Workflow: ".github/workflows/release.yml", Ref: "refs/heads/main", Runner: "github-hosted",
	}
	mover := signer
	mover.Workflow = ".github/workflows/move.yml"
	want := family.Policy{
		Instance: family.Public, Signer: signer, Movers: []family.Signer{mover}, MaxAge: 90 * 24 * time.Hour, MaxJump: 500,
		Require: map[family.SubjectKind][]family.Demand{family.PlatformManifest: {"signature", "provenance", "sbom", "scan"}},
		Deny:    []family.Denial{{Commit: "0123456789abcdef0123456789abcdef01234567", Reason: "it leaks"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if _, denied := got.Denied("", "0123456789abcdef0123456789abcdef01234567"); !denied {
		t.Error("the denied commit is not denied")
	}
	if _, denied := got.Denied("", ""); denied {
		t.Error("nothing is denied")
	}
}

func TestParsePolicyNamesTheLineOfWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"a misspelt field":              {"runner:", "runer:", `policy.yaml:8: unknown field "runer": did you mean "runner"?`},
		"an unknown instance":           {"instance: public", "instance: pubic", `policy.yaml:1: "pubic" is not one of [public github local key]: did you mean "public"?`},
		"an issuer without https":       {"issuer: https:", "issuer: http:", `policy.yaml:2: "http://token.actions.githubusercontent.com" is not a plain https URL`},
		"a repository with a slash":     {"acme/widget\n", "acme/widget/\n", `policy.yaml:3: "https://github.com/acme/widget/" is not a plain https URL`},
		"a repository with a wildcard":  {"acme/widget\n", "acme/*\n", `policy.yaml:3: "https://github.com/acme/*" is not a plain https URL`},
		"a builder of anybody's":        {"runner:", "builder: https://github.com/*/*/.github/workflows/b.yml@refs/tags/v*\nrunner:", `policy.yaml:8: "https://github.com/*/*/.github/workflows/b.yml@refs/tags/v*" is not a builder such as`},
		"a denial by another algorithm": {"commit: 0123456789abcdef0123456789abcdef01234567", "digest: 'sha512:" + strings.Repeat("0", 128) + "'", `policy.yaml:14: a denial names one digest`},
		"a branch that is no ref":       {"ref: refs/heads/main", "ref: main", `policy.yaml:7: "main" is not a ref such as`},
		"a regular expression":          {"ref: refs/heads/main", "ref: refs/heads/.+|x", `policy.yaml:7: "refs/heads/.+|x" is not a ref such as`},
		"an id that is a name":          {"owner-id: 77", "owner-id: acme", `policy.yaml:5: "acme" is not a decimal number`},
		"a workflow outside":            {"workflow: .github/workflows/release.yml", "workflow: ../release.yml", `policy.yaml:6: "../release.yml" is not the path of a workflow`},
		"no repository":                 {"repository: https://github.com/acme/widget\n", "", `policy.yaml:1: field "repository" is missing`},
		"no workflow and no builder":    {"workflow: .github/workflows/release.yml\n", "", `policy.yaml:1: field "workflow" is missing`},
		"an age of nothing":             {"max-age: 90d", "max-age: 0d", `policy.yaml:9: "0d" is not an age such as 90d or 36h`},
		"a jump of nothing":             {"max-jump: 500", "max-jump: 0", `policy.yaml:10: "0" is not a positive number`},
		"an unknown demand":             {"sbom, scan]", "sbom, scam]", `policy.yaml:12: "scam" is not one of [signature provenance sbom scan]: did you mean "scan"?`},
		"a kind that demands nothing":   {"[signature, provenance, sbom, scan]", "[]", `policy.yaml:12: platform must be asked for at least one statement`},
		"a kind of subject without end": {"  platform:", "  platfrom:", `policy.yaml:12: "platfrom" is not one of`},
		"a denial of nothing":           {"commit: 0123456789abcdef0123456789abcdef01234567, ", "", `policy.yaml:14: a denial names one digest`},
		"a denial without reason":       {", reason: it leaks", "", `policy.yaml:14: field "reason" is missing`},
		"a key beside an identity":      {"runner:", "key: x\nrunner:", `policy.yaml:8: key is not one PEM block of type PUBLIC KEY`},
		"an instance of keys without":   {"instance: public", "instance: key", `policy.yaml:1: instance key and the field key belong together`},
		"a mover with a strange ref":    {"move.yml}", "move.yml, ref: x}", `policy.yaml:16: "x" is not a ref such as`},
	} {
		t.Run(name, func(t *testing.T) {
			content := strings.Replace(trusted, c.old, c.new, 1)
			if content == trusted {
				t.Fatal("the case does not change anything")
			}
			_, err := family.ParsePolicy("policy.yaml", []byte(content))
			var problems *family.Problems
			if !errors.Is(err, fault.Invalid) || !errors.As(err, &problems) {
				t.Fatalf("ParsePolicy = %v, want problems", err)
			}
			for _, p := range problems.List {
				if strings.HasPrefix(p.String(), c.want) {
					return
				}
			}
			t.Errorf("ParsePolicy found\n%v\nwant\n%s", problems, c.want)
		})
	}
}

func TestAChannelOverridesPartsOfThePolicy(t *testing.T) {
	content := strings.Replace(small, "channels:\n", "channels:\n  prod:\n    gate: {severities: [], unscanned: refuse, local-base: refuse}\n    trust:\n      ref: refs/tags/v*\n      deny: [{digest: 'sha256:"+strings.Repeat("0", 64)+"', reason: bad}]\n", 1) +
		"trust:\n  issuer: https://token.actions.githubusercontent.com\n  repository: https://github.com/acme/widget\n  workflow: release.yml\n  ref: refs/heads/main\n"
	f, err := family.Parse("family.yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	prod, dev := f.Policy("prod"), f.Policy("dev")
	if prod.Signer.Ref != "refs/tags/v*" || prod.Signer.Workflow != "release.yml" || len(prod.Deny) != 1 || prod.MaxJump != family.DefaultJump {
		t.Errorf("prod trusts %+v", prod)
	}
	if dev.Signer.Ref != "refs/heads/main" || len(dev.Deny) != 0 || f.Policy("").Signer != dev.Signer {
		t.Errorf("dev trusts %+v", dev)
	}
	for _, p := range []family.Policy{dev, prod} {
		if movers := p.MayMove(); len(movers) != 2 {
			t.Errorf("one document serves both channels, and %+v may sign it", movers)
		}
	}
	_, err = family.Parse("family.yaml", []byte(strings.Replace(content, "refs/tags/v*", "v*", 1)))
	if err == nil || !strings.Contains(err.Error(), `family.yaml:22: "v*" is not a ref`) {
		t.Errorf("a wrong override: %v", err)
	}
}

func TestAPatternMatchesWholeNames(t *testing.T) {
	for _, c := range []struct {
		pattern family.Pattern
		yes, no []string
	}{
		{"refs/heads/main", []string{"refs/heads/main"}, []string{"", "refs/heads/main-evil", "xrefs/heads/main", "refs/heads/Main", "refs/heads/main/x"}},
		{"refs/tags/v*", []string{"refs/tags/v", "refs/tags/v1", "refs/tags/v1.2.3"}, []string{"refs/tags/v1/evil", "refs/tags/x1", "refs/heads/v1", "refs/tags/"}},
		{"refs/heads/release-*-x", []string{"refs/heads/release-1-x", "refs/heads/release--x-x"}, []string{"refs/heads/release-x", "refs/heads/release-1-xy", "refs/heads/release-/-x"}},
		{"*/*", []string{"a/b", "/"}, []string{"a", "a/b/c"}},
		{"a.c", []string{"a.c"}, []string{"abc"}},
		{"", []string{""}, []string{"a"}},
	} {
		for _, s := range c.yes {
			if !c.pattern.Match(s) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if c.pattern.Match(s) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

func TestADeniedDigestIsDeniedWhateverTheCommit(t *testing.T) {
	d := digest.FromString("x")
	p := family.Policy{Deny: []family.Denial{{Digest: d, Reason: "it leaks"}}}
	if why, denied := p.Denied(d, "any"); !denied || why != "it leaks" {
		t.Errorf("Denied = %q, %v", why, denied)
	}
}

func TestTheRepositorysOwnPolicyIsStrict(t *testing.T) {
	f, err := family.Parse("containai.yaml", mustRead(t, "../../containai.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, channel := range []string{"dev", "nightly", "prod"} {
		p := f.Policy(channel)
		if p.Instance != family.Public || p.Signer.Issuer == "" || p.Signer.Runner != "github-hosted" || strings.HasPrefix(string(p.Signer.Ref), "refs/*") {
			t.Errorf("%s trusts %+v", channel, p.Signer)
		}
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(trusted))
	f.Add([]byte("instance: key\nkey: |\n  -----BEGIN PUBLIC KEY-----\n  AA==\n  -----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := family.ParsePolicy("fuzz.yaml", content)
		anybody := p.Signer.Key == "" && (p.Signer.Issuer == "" || p.Signer.Repository == "" || p.Signer.Ref == "")
		if err == nil && p.Instance != family.Local && anybody {
			t.Errorf("accepted a policy that trusts anybody: %+v", p)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("refs/tags/v*", "refs/tags/v1")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !strings.Contains(pattern, "*") && family.Pattern(pattern).Match(name) != (pattern == name) {
			t.Errorf("%q and %q", pattern, name)
		}
		if family.Pattern(pattern).Match(name) && strings.Count(pattern, "/") != strings.Count(name, "/") {
			t.Errorf("%q crosses a slash in %q", pattern, name)
		}
	})
}

func ExamplePattern() {
	p := family.Pattern("refs/tags/v*")
	fmt.Println(p.Match("refs/tags/v1.2.3"), p.Match("refs/tags/v1/evil"), p.Match("x/refs/tags/v1"))
	// Output: true false false
}
