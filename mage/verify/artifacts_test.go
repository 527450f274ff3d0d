package verify_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// verifiers are what an installer's record names.
func verifiers(r *release.Record) {
	r.Verifiers = []evidence.Material{{Name: "verifier linux/amd64", URI: "pkg:golang/example", Digest: map[string]string{"sha256": digest.FromString("a verifier").Encoded()}}}
}

func TestArtifactsAreWhatAnInstallerMayTake(t *testing.T) {
	w := newWorld(t, plot{images: 3, fallback: true, record: verifiers})
	before := must(family.Parse("tiny.yaml", []byte(familyFile(2)))) // the family has grown since
	w.verifier.Family = before
	w.verifier.Registry = must(verify.OpenRegistry(w.host+"/tiny", before))
	result, served, err := w.verifier.Artifacts(t.Context(), "dev", w.now)
	if err != nil || result.Generation != 7 || result.Commit != widgetCommit || len(result.Checks) < 9 {
		t.Fatalf("%+v, %v", result, err)
	}
	if served.Payload.Digest != w.record.Artifacts["tiny-payload"].Digest || served.Installer.Digest != w.record.Artifacts["tiny-installer"].Digest || served.State.Tag != w.record.Source.Tag() {
		t.Errorf("served %+v", served)
	}
	if _, err := w.verifier.Channel(t.Context(), "dev", w.now); !errors.Is(err, verify.Incomplete) {
		t.Errorf("the whole channel by the older file: %v, want %s", err, verify.Incomplete)
	}
}

func TestArtifactsAreRefusedAsChannelsAre(t *testing.T) {
	other := digest.FromString("other")
	document := func(change func(*release.State)) func(*release.Document) {
		return func(d *release.Document) {
			s := d.Channels["dev"]
			change(&s)
			d.Channels["dev"] = s
		}
	}
	for name, c := range map[string]struct {
		plot   plot
		kind   fault.Kind
		reason verify.Reason
	}{
		"a payload of another release":   {plot{document: document(func(s *release.State) { s.Members["tiny-payload"] = other })}, fault.Forged, verify.Contradicted},
		"an installer of another":        {plot{document: document(func(s *release.State) { s.Members["tiny-installer"] = other })}, fault.Forged, verify.Contradicted},
		"a record without a payload":     {plot{record: func(r *release.Record) { delete(r.Artifacts, "tiny-payload") }}, fault.Refused, verify.Incomplete},
		"a payload without a provenance": {plot{unsigned: func(m, _, p string) bool { return m == "tiny-payload" && p == evidence.Provenance }}, fault.Unverified, verify.Missing},
		"an installer nobody signed":     {plot{unsigned: func(m, _, _ string) bool { return m == "tiny-installer" }}, fault.Unverified, verify.Missing},
		"a record nobody signed":         {plot{unsigned: func(m, _, _ string) bool { return m == "tiny-metadata" }}, fault.Unverified, verify.Missing},
		"a verifier that its provenance does not name": {plot{record: verifiers, pins: func(_ string, pins []evidence.Material) {
			for i := range pins {
				if strings.HasPrefix(pins[i].Name, "verifier") {
					pins[i].Digest = map[string]string{"sha256": other.Encoded()}
				}
			}
		}}, fault.Forged, verify.WrongDependencies},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.plot)
			if _, _, err := w.verifier.Artifacts(t.Context(), "dev", w.now); !errors.Is(err, c.kind) || !errors.Is(err, c.reason) {
				t.Errorf("Artifacts = %v, want %s: %s", err, c.kind, c.reason)
			}
		})
	}
}
