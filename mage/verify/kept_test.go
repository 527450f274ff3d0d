package verify_test

import (
	"strings"
	"testing"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// laterCommit kept an image that widgetCommit built, and inspected it again.
var laterCommit = strings.Repeat("9", 40)

// inspectedLater makes the scene that of a kept image.
func (s *scene) inspectedLater() {
	s.subject.Inspected = laterCommit
	s.signedAt(laterCommit, family.DemandSBOM, family.DemandScan)
}

// signedAt has jobs of another commit sign statements.
func (s *scene) signedAt(commit string, demands ...family.Demand) {
	w := honest()
	w.commit = commit
	for _, d := range demands {
		s.orders[d].who = &w
	}
	for _, d := range demands {
		if d == family.DemandProvenance {
			s.provenance = evidence.NewSLSA(w.identity(), s.subject.Dependencies)
		}
	}
}

func TestAKeptImageIsProvedByWhoBuiltItAndWhoInspectedIt(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.inspectedLater()
	r, err := verify.Verify(t.Context(), s.subject, s.evidence(), must(verify.ParseTrust(s.policy.Instance, s.root)), s.policy, s.now)
	if err != nil || r.Commit != widgetCommit {
		t.Errorf("it is of commit %q, %v; want %s", r.Commit, err, widgetCommit)
	}
}

// keptForgeries are evidence of a kept image that jobs of the trusted workflow signed, at the wrong one
// of the two commits, or at neither.
func keptForgeries() []forgery {
	other := strings.Repeat("f", 40)
	kept := func(name string, kind fault.Kind, reason sigstore.Reason, change func(*scene)) forgery {
		return forgery{"D3", name, kind, reason, func(s *scene) { s.inspectedLater(); change(s) }}
	}
	at := func(commit string, d family.Demand) func(*scene) {
		return func(s *scene) { s.signedAt(commit, d) }
	}
	return []forgery{
		kept("a kept image that the commit which kept it signs for", fault.Forged, verify.WrongCommit, at(laterCommit, family.DemandSignature)),
		kept("a kept image whose provenance says the commit that kept it", fault.Forged, verify.WrongCommit, at(laterCommit, family.DemandProvenance)),
		kept("a kept image with the scan of before it was inspected again", fault.Forged, verify.WrongCommit, at(widgetCommit, family.DemandScan)),
		kept("a kept image with the SBOM of before it was inspected again", fault.Forged, verify.WrongCommit, at(widgetCommit, family.DemandSBOM)),
		kept("a kept image that a third commit signs for", fault.Forged, sigstore.WrongIdentity, at(other, family.DemandSignature)),
		kept("a kept image that a third commit scanned", fault.Forged, sigstore.WrongIdentity, at(other, family.DemandScan)),
		kept("a kept image that a denied commit inspected", fault.Refused, verify.Denied, func(s *scene) {
			s.policy.Deny = []family.Denial{{Commit: laterCommit, Reason: "its scanner was replaced"}}
		}),
		kept("a kept image that a denied commit built", fault.Refused, verify.Denied, func(s *scene) {
			s.policy.Deny = []family.Denial{{Commit: widgetCommit, Reason: "it leaks"}}
		}),
	}
}

// TestARecordThatNamesTheWrongBuilderIsRefused: the record decides from which commit an image is accepted,
// so that one which says another verifies nothing that it names.
func TestARecordThatNamesTheWrongBuilderIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*release.Image){
		"built by another commit":     func(i *release.Image) { i.Built, i.Inspected = laterCommit, laterCommit },
		"inspected by another commit": func(i *release.Image) { i.Built, i.Inspected = laterCommit, "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plot{record: func(r *release.Record) {
				image := r.Images["tiny-base"]
				change(&image)
				r.Images["tiny-base"] = image
			}})
			_, err := w.verifier.Channel(t.Context(), "dev", w.now)
			if kind, _ := fault.KindOf(err); kind != fault.Forged {
				t.Errorf("the channel: %v, want forged", err)
			}
		})
	}
}
