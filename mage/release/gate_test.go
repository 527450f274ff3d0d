package release_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

func TestGateApprovesWhatIsCompleteAndClean(t *testing.T) {
	r := record()
	approved, err := release.Gate{Channel: "dev"}.Approve(release.Evidenced{Built: release.Built{Record: r}, Reports: reports(r)}, now)
	if err != nil || !approved.Valid() {
		t.Errorf("Approve() = %v, %v", approved.Valid(), err)
	}
	if (release.Approved{}).Valid() {
		t.Error("an empty Approved is valid")
	}
}

func TestGateRefuses(t *testing.T) {
	prod := family.Channel{Gate: family.Gate{Severities: []string{"CRITICAL"}}}
	vulnerability := evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-1", Severity: "CRITICAL", FixedIn: "2"}
	for name, spoil := range map[string]func(*release.Record, *[]evidence.Report){
		"F7 a cell that was not inspected":       func(_ *release.Record, r *[]evidence.Report) { *r = (*r)[1:] },
		"F7 a report about another digest":       func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Digest = digest.FromString("x") },
		"F7 two reports of one cell":             func(_ *release.Record, r *[]evidence.Report) { *r = append(*r, (*r)[0]) },
		"F7 a report of a cell nobody built":     func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Cell.Platform = "linux/s390x" },
		"a report that is silent about secrets":  func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Secrets = "" },
		"a report that is silent about vulns":    func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Vulnerabilities = "" },
		"F6 vulnerabilities that nobody scanned": func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Vulnerabilities = evidence.NotScanned },
		"a cell without an SBOM":                 func(_ *release.Record, r *[]evidence.Report) { (*r)[0].SBOM = "" },
		"a failed smoke test":                    func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Smoke = []evidence.SmokeResult{{Name: "x"}} },
		"F3 a secret": func(_ *release.Record, r *[]evidence.Report) {
			(*r)[0].Findings = []evidence.Finding{{Kind: evidence.Secret, ID: "aws"}}
		},
		"a critical vulnerability with a fix": func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Findings = []evidence.Finding{vulnerability} },
		"a finding of an unknown kind":        func(_ *release.Record, r *[]evidence.Report) { (*r)[0].Findings = []evidence.Finding{{Kind: "new"}} },
		"a dirty work tree":                   func(r *release.Record, _ *[]evidence.Report) { r.Source.Dirty = "deadbeef" },
		"a base from a mirror":                func(r *release.Record, _ *[]evidence.Report) { r.LocalBase = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := record()
			reps := reports(r)
			spoil(&r, &reps)
			approved, err := release.Gate{Channel: "prod", Rules: prod}.Approve(release.Evidenced{Built: release.Built{Record: r}, Reports: reps}, now)
			var verdict *release.Verdict
			if !errors.Is(err, fault.Refused) || !errors.As(err, &verdict) || approved.Valid() {
				t.Errorf("Approve() = %v, %v, want a refusal", approved.Valid(), err)
			}
		})
	}
}

// What the family file declares was run, each test once, and nothing else is told.
func TestF7AGateWantsAResultOfEverySmokeTest(t *testing.T) {
	f := tiny()
	image := f.Images["tiny"]
	image.Smoke = []family.Smoke{{Name: "starts"}, {Name: "stops"}}
	f.Images["tiny"] = image
	starts, stops := evidence.SmokeResult{Name: "starts", Passed: true}, evidence.SmokeResult{Name: "stops", Passed: true}
	for name, c := range map[string]struct {
		results []evidence.SmokeResult
		refused bool
	}{
		"all":          {[]evidence.SmokeResult{starts, stops}, false},
		"none":         {nil, true},
		"one of two":   {[]evidence.SmokeResult{starts}, true},
		"one twice":    {[]evidence.SmokeResult{starts, starts}, true},
		"one too many": {[]evidence.SmokeResult{starts, stops, {Name: "sings", Passed: true}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := record()
			set := release.Evidenced{Built: release.Built{Record: r, Plan: release.Plan{Family: f}}, Reports: reports(r)}
			for i := range set.Reports {
				if set.Reports[i].Cell.Image == "tiny" {
					set.Reports[i].Smoke = c.results
				}
			}
			if v := (release.Gate{Channel: "dev"}).Judge(set, now); v.Refuses() != c.refused {
				t.Errorf("refused: %v, %v", v.Refuses(), v)
			}
		})
	}
}

// evidenced is the record's evidence with findings in the reports of images.
func evidenced(findings map[string][]evidence.Finding) release.Evidenced {
	r := record()
	set := release.Evidenced{Built: release.Built{Record: r}, Reports: reports(r)}
	for i, report := range set.Reports {
		set.Reports[i].Findings = findings[report.Cell.Image]
		set.Reports[i].Layers = []evidence.Layer{{Digest: baseLayer, Instruction: "RUN apt-get install openssl"}}
	}
	return set
}

var (
	baseLayer = digest.FromString("base layer")
	openssl   = evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "CRITICAL", Package: "openssl", Version: "3.0.1", PURL: "pkg:deb/debian/openssl@3.0.1?arch=amd64", FixedIn: "3.0.2", Title: "it bleeds", Layer: baseLayer}
	awsSecret = evidence.Finding{Kind: evidence.Secret, ID: "aws-access-key-id", Severity: "CRITICAL", Title: "AWS key", Path: "root/.aws/credentials", Line: 2, Layer: baseLayer}
)

func strict(waivers ...family.Waiver) release.Gate {
	return release.Gate{Channel: "prod", Images: tiny().Images, Rules: family.Channel{Gate: family.Gate{Severities: []string{"CRITICAL", "HIGH"}, Waivers: waivers}}}
}

func TestAFindingIsToldOnceWhereItCameIn(t *testing.T) {
	own := openssl
	own.Layer = digest.FromString("another layer")
	for name, tt := range map[string]struct {
		findings map[string][]evidence.Finding
		want     []string // "image → who inherited it"
	}{
		"inherited from the base":         {map[string][]evidence.Finding{"tiny-base": {openssl}, "tiny": {openssl}}, []string{"tiny-base → tiny"}},
		"of the base, mended above it":    {map[string][]evidence.Finding{"tiny-base": {openssl}}, []string{"tiny-base → "}},
		"introduced above the base":       {map[string][]evidence.Finding{"tiny": {openssl}}, []string{"tiny → "}},
		"in the base and once more above": {map[string][]evidence.Finding{"tiny-base": {openssl}, "tiny": {openssl, own}}, []string{"tiny → ", "tiny-base → tiny"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, f := range strict().Judge(evidenced(tt.findings), now).Findings {
				got = append(got, f.Cell.Image+" → "+strings.Join(f.Inherited, " "))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARefusalSaysWhatToChange(t *testing.T) {
	_, err := strict().Approve(evidenced(map[string][]evidence.Finding{"tiny-base": {awsSecret, openssl}, "tiny": {openssl}}), now)
	if err == nil {
		t.Fatal("approved")
	}
	for _, want := range []string{
		"tiny-base linux/amd64: CRITICAL CVE-2026-1 in openssl 3.0.1, fixed in 3.0.2: it bleeds",
		"in layer " + baseLayer.String() + " of RUN apt-get install openssl",
		"inherited from tiny-base by tiny",
		"CRITICAL secret in root/.aws/credentials:2: AWS key (aws-access-key-id)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

func TestARefusalShowsTheWorstTenFirst(t *testing.T) {
	var list []evidence.Finding
	for i := range 30 {
		f := openssl
		f.ID, f.Severity = fmt.Sprintf("CVE-2026-%02d", i), []string{"HIGH", "LOW", "CRITICAL"}[i%3]
		list = append(list, f)
	}
	verdict := strict().Judge(evidenced(map[string][]evidence.Finding{"tiny-base": append(list, awsSecret)}), now)
	if got := verdict.Blocking(); got != 21 {
		t.Errorf("%d findings block, want 10 critical, 10 high and a secret", got)
	}
	lines := strings.Split(verdict.Error(), "\n")
	if !strings.Contains(lines[1], "secret") || !strings.Contains(lines[3], "CRITICAL CVE-2026-02") || !strings.Contains(verdict.Error(), "… and 11 more findings") {
		t.Errorf("the error says:\n%s", verdict.Error())
	}
	if strings.Contains(verdict.Error(), "LOW") {
		t.Error("the error shows what does not stop the release")
	}
}

func TestAFailedSmokeTestShowsItsOutputCut(t *testing.T) {
	set := evidenced(nil)
	set.Reports[0].Smoke = []evidence.SmokeResult{{Name: "starts", Exit: 7, Output: strings.Repeat("a line\n", 40)}}
	_, err := strict().Approve(set, now)
	if err == nil || strings.Count(err.Error(), "| a line") != 12 || !strings.Contains(err.Error(), `smoke test "starts" exited 7`) || !strings.Contains(err.Error(), "28 more lines") {
		t.Errorf("Approve() = %v", err)
	}
}

// TestF2NothingSecretIsPublishedInAProvenance: the gate looks through what record and provenance would
// tell, also of images that another machine built.
func TestF2NothingSecretIsPublishedInAProvenance(t *testing.T) {
	const token = "ghp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for name, spoil := range map[string]func(*release.Record){
		"an argument by its name": func(r *release.Record) {
			r.Images["app"] = release.Image{Index: r.Images["app"].Index, Platforms: r.Images["app"].Platforms, Arguments: map[string]string{"NPM_TOKEN": token}}
		},
		"an argument by its form": func(r *release.Record) {
			r.Images["app"] = release.Image{Index: r.Images["app"].Index, Platforms: r.Images["app"].Platforms, Arguments: map[string]string{"PLAIN": "x" + token}}
		},
		"the address of a material": func(r *release.Record) {
			r.Materials = []evidence.Material{{Name: "os-base", URI: "https://alice:hunter2hunter2@example.com/base"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := record()
			spoil(&r)
			_, err := release.Gate{Channel: "dev"}.Approve(release.Evidenced{Built: release.Built{Record: r}, Reports: reports(r)}, now)
			if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), "provenance") {
				t.Fatalf("Approve() = %v, want a refusal", err)
			}
			if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), "hunter2") {
				t.Error("the refusal holds the secret")
			}
		})
	}
}
