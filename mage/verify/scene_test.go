package verify_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/verify"
)

// The two instances of all tests: the trusted one and the attacker's own, who has everything but
// the trusted keys.
var (
	ours   = sync.OnceValue(newForge)
	theirs = sync.OnceValue(newForge)
)

// scene is one subject with its honest evidence, before somebody changes it.
type scene struct {
	subject    verify.Subject
	about      digest.Digest // what the statements speak about
	policy     family.Policy
	root       []byte
	now        time.Time
	provenance evidence.SLSA
	sbom       string
	report     evidence.Report
	documents  []string // nil: the SBOM
	demands    []family.Demand
	orders     map[family.Demand]*order
	payload    func(d family.Demand, statement string) string // edits a statement before it is signed
	bundle     func(d family.Demand, bundle string) string    // edits a bundle after it was signed
	extra      []string
	unread     []error
}

const debian = "7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603"

func widgetPolicy() family.Policy {
	return family.Policy{Instance: family.Public, Signer: family.Signer{
		Issuer: gitHubIssuer, Repository: widgetRepository, RepositoryID: "4242", OwnerID: "77",
		Workflow: ".github/workflows/release.yml", Ref: "refs/heads/main", Runner: "github-hosted",
	}}
}

func newScene() *scene {
	d := digest.FromString("the widget's manifest")
	base := []evidence.Material{{Name: "os", URI: "pkg:docker/debian", Digest: map[string]string{"sha256": debian}}}
	s := &scene{
		subject: verify.Subject{Name: "widget", Kind: family.PlatformManifest, Platform: "linux/amd64", Digest: d, Commit: widgetCommit, Dependencies: base},
		about:   d, policy: widgetPolicy(), root: ours().trustedRoot, now: now,
		provenance: evidence.NewSLSA(honest().identity(), base),
		sbom:       sbomOf(d, "1.0"),
		demands:    []family.Demand{family.DemandSignature, family.DemandProvenance, family.DemandSBOM, family.DemandScan},
		orders:     map[family.Demand]*order{},
	}
	s.report = reportOf("widget", "linux/amd64", d, s.sbom)
	for _, demand := range s.demands {
		s.orders[demand] = &order{}
	}
	return s
}

func sbomOf(d digest.Digest, version string) string {
	return fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","metadata":{"component":{"type":"container","name":"widget","version":"%s"}},`+
		`"components":[{"type":"library","name":"zlib","version":"%s","licenses":[{"license":{"id":"Zlib"}}]}]}`, d, version)
}

func reportOf(image, platform string, d digest.Digest, sbom string) evidence.Report {
	return evidence.Report{
		Cell: evidence.Cell{Image: image, Platform: platform}, Digest: d, Tools: map[string]string{"trivy": "v0.73.0"},
		Secrets: evidence.Scanned, Vulnerabilities: evidence.Scanned, SBOM: digest.FromString(sbom), Packages: 1,
		Smoke: []evidence.SmokeResult{}, Findings: []evidence.Finding{},
	}
}

// every applies a change to the orders of all statements.
func (s *scene) every(change func(*order)) {
	for _, o := range s.orders {
		change(o)
	}
}

// signedBy has somebody else sign everything, and lets the provenance say so, too.
func (s *scene) signedBy(change func(*who)) {
	w := honest()
	change(&w)
	s.every(func(o *order) { o.who = &w })
	s.provenance = evidence.NewSLSA(w.identity(), s.subject.Dependencies)
}

// gitHubsInstance has the scene verified as GitHub's own instance asks, which runs no log.
func (s *scene) gitHubsInstance() {
	s.policy.Instance, s.root = family.GitHub, ours().withoutLogs
}

// spoiled changes the parsed signature bundle after it was signed.
func (s *scene) spoiled(change func(*bundlepb.Bundle)) {
	s.orders[family.DemandSignature].spoil = change
}

// edited replaces text in one statement before it is signed.
func (s *scene) edited(demand family.Demand, old, new string) {
	s.payload = func(d family.Demand, statement string) string {
		if d != demand {
			return statement
		}
		if !strings.Contains(statement, old) {
			panic(fmt.Sprintf("there is no %s in %s", old, statement))
		}
		return strings.Replace(statement, old, new, 1)
	}
}

// evidence makes everything that the scene asks for.
func (s *scene) evidence() verify.Evidence {
	e := verify.Evidence{Unread: s.unread}
	predicates := map[family.Demand]any{
		family.DemandSignature: struct{}{}, family.DemandProvenance: s.provenance, family.DemandSBOM: json.RawMessage(s.sbom), family.DemandScan: s.report,
	}
	types := map[family.Demand]string{
		family.DemandSignature: evidence.Signature, family.DemandProvenance: evidence.Provenance, family.DemandSBOM: evidence.SBOM, family.DemandScan: evidence.Scan,
	}
	for _, d := range s.demands {
		text := string(must(json.Marshal(must(evidence.NewStatement(s.subject.Name, s.about, types[d], predicates[d])))))
		if s.payload != nil {
			text = s.payload(d, text)
		}
		o := *s.orders[d]
		o.payload = []byte(text)
		bundle := string(ours().mint(o))
		if s.bundle != nil {
			bundle = s.bundle(d, bundle)
		}
		e.Bundles = append(e.Bundles, []byte(bundle))
	}
	for _, bundle := range s.extra {
		e.Bundles = append(e.Bundles, []byte(bundle))
	}
	documents := s.documents
	if documents == nil {
		documents = []string{s.sbom}
	}
	for _, d := range documents {
		e.Documents = append(e.Documents, []byte(d))
	}
	return e
}

func (s *scene) verify(t *testing.T) (verify.Result, error) {
	t.Helper()
	trust, err := verify.ParseTrust(s.policy.Instance, s.root)
	if err != nil {
		return verify.Result{}, err
	}
	return verify.Verify(t.Context(), s.subject, s.evidence(), trust, s.policy, s.now)
}

// forgery is one wrong thing and how it must be refused.
type forgery struct {
	row    string // of the fault catalogue, or the class of Sigstore's conformance vectors
	name   string
	kind   fault.Kind
	reason verify.Reason // "" where the kind says it all
	change func(*scene)
}

// refuse runs a table of forgeries, and the honest scene they are changed from.
func refuse(t *testing.T, table []forgery) {
	t.Run("the honest one is accepted", func(t *testing.T) {
		r, err := newScene().verify(t)
		if err != nil || len(r.Checks) != 5 {
			t.Fatalf("%d checks, %v", len(r.Checks), err)
		}
	})
	for _, f := range table {
		t.Run(strings.TrimSpace(f.row+" "+f.name), func(t *testing.T) {
			t.Parallel()
			s := newScene()
			f.change(s)
			r, err := s.verify(t)
			refused(t, err, f.kind, f.reason)
			if err == nil {
				t.Logf("accepted with %d checks", len(r.Checks))
			}
		})
	}
}

func refused(t *testing.T, err error, kind fault.Kind, reason verify.Reason) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %v because %q", kind, reason)
	}
	if got, _ := fault.KindOf(err); got != kind || reason != "" && !errors.Is(err, reason) {
		t.Errorf("refused with %v: %v\nwant %v because %q", got, err, kind, reason)
	}
}

func (s *scene) without(d family.Demand) {
	s.demands = slices.DeleteFunc(slices.Clone(s.demands), func(x family.Demand) bool { return x == d })
}
