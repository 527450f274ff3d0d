package sigstore

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

var update = flag.Bool("update", false, "sign testdata anew, with a new local Sigstore")

// The vectors were signed by a local Sigstore that is gone: verification needs nothing but the files.
const (
	vectorRoot   = "testdata/trusted_root.json"
	vectorBundle = "testdata/bundle.json"
	vectorSecond = "testdata/bundle_second.json" // by another run of the same Sigstore
	vectorTwo    = "testdata/bundle_two_subjects.json"
)

func vector(tb testing.TB, path string) []byte {
	tb.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

// subject is what the vectors speak about.
var subject = digest.FromString("widget 1")

func TestUpdateVectors(t *testing.T) {
	if !*update {
		t.Skip("run with -update to sign testdata anew")
	}
	dir := filepath.Join(t.TempDir(), "sigstore")
	for _, path := range []string{vectorBundle, vectorSecond} {
		l, err := StartLocal(t.Context(), helperPath(t), dir, widget)
		if err != nil {
			t.Fatal(err)
		}
		s := newSigner(t, l)
		st := statementAbout(t, 1, evidence.Provenance, evidence.NewSLSA(s.Identity(), nil))
		b, err := s.Sign(t.Context(), st)
		if err != nil {
			t.Fatal(err)
		}
		st.Subject[0].Name = "another"
		one, _ := json.Marshal(st)
		two, err := s.sign(t.Context(), []byte(strings.Replace(string(one), `"subject":[`, `"subject":[{"name":"widget","digest":{"sha256":"`+subject.Encoded()+`"}},`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string][]byte{path: b.JSON, vectorTwo: two, vectorRoot: vector(t, l.Services.TrustedRoot)} {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnOldBundleVerifiesOffline(t *testing.T) {
	t.Parallel()
	trust := parseTrust(t, vector(t, vectorRoot))
	for _, path := range []string{vectorBundle, vectorSecond} {
		v, err := trust.Verify(vector(t, path), subject, widgetExpect())
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if err := CheckProvenance(v.Statement, v.Identity); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	less := widgetExpect()
	less.Ref, less.Commit, less.Runner = "", "", ""
	if _, err := trust.Verify(vector(t, vectorBundle), subject, less); err != nil {
		t.Errorf("of any local ref, commit and runner: %v", err)
	}
}

// document is a bundle as plain JSON, to be spoilt.
type document map[string]any

func (d document) at(names ...string) document {
	for _, name := range names {
		d = document(d[name].(map[string]any))
	}
	return d
}

func TestASpoiltBundleIsRefused(t *testing.T) {
	t.Parallel()
	second := document{}
	if err := json.Unmarshal(vector(t, vectorSecond), &second); err != nil {
		t.Fatal(err)
	}
	swap := func(d document, name string) {
		d["verificationMaterial"].(map[string]any)[name] = second.at("verificationMaterial")[name]
	}
	for name, c := range map[string]struct {
		want  Reason
		spoil func(d document)
	}{
		"a payload of another statement":  {Untrusted, func(d document) { d.at("dsseEnvelope")["payload"] = second.at("dsseEnvelope")["payload"] }},
		"a signature of another bundle":   {Untrusted, func(d document) { d.at("dsseEnvelope")["signatures"] = second.at("dsseEnvelope")["signatures"] }},
		"an envelope of another bundle":   {Untrusted, func(d document) { d["dsseEnvelope"] = second["dsseEnvelope"] }},
		"a certificate of another bundle": {Untrusted, func(d document) { swap(d, "certificate") }},
		"a log entry of another bundle":   {Untrusted, func(d document) { swap(d, "tlogEntries") }},
		"a timestamp of another bundle":   {Untrusted, func(d document) { swap(d, "timestampVerificationData") }},
		"no log entry":                    {Unlogged, func(d document) { delete(d.at("verificationMaterial"), "tlogEntries") }},
		"no timestamp":                    {Undated, func(d document) { delete(d.at("verificationMaterial"), "timestampVerificationData") }},
		"no certificate":                  {Malformed, func(d document) { delete(d.at("verificationMaterial"), "certificate") }},
		"a key instead of a certificate":  {Malformed, func(d document) { d["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "x"}} }},
		"no envelope":                     {Malformed, func(d document) { delete(d, "dsseEnvelope") }},
		"two signatures": {Malformed, func(d document) {
			s := d.at("dsseEnvelope")
			s["signatures"] = append(s["signatures"].([]any), s["signatures"].([]any)...)
		}},
		"another payload type":             {Malformed, func(d document) { d.at("dsseEnvelope")["payloadType"] = "text/plain" }},
		"an older bundle version":          {Malformed, func(d document) { d["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2" }},
		"a member that the format has not": {Malformed, func(d document) { d["extra"] = true }},
		"a log entry without inclusion proof": {Malformed, func(d document) {
			delete(d.at("verificationMaterial")["tlogEntries"].([]any)[0].(map[string]any), "inclusionProof")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := document{}
			if err := json.Unmarshal(vector(t, vectorBundle), &d); err != nil {
				t.Fatal(err)
			}
			c.spoil(d)
			content, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			refuses(t, parseTrust(t, vector(t, vectorRoot)), content, subject, widgetExpect(), c.want)
		})
	}
}

func TestAWrongSignerIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(e *Expect){
		"another issuer":       func(e *Expect) { e.Issuer = GitHubIssuer },
		"another builder":      func(e *Expect) { e.Builder = LocalBuilder + "/fork" },
		"another repository":   func(e *Expect) { e.Repository = "https://github.com/evil/widget" },
		"a prefix of it":       func(e *Expect) { e.Repository = "https://github.com/acme/widge" },
		"another ref":          func(e *Expect) { e.Ref = "refs/heads/evil" },
		"another commit":       func(e *Expect) { e.Commit = strings.Repeat("f", 40) },
		"another runner":       func(e *Expect) { e.Runner = "github-hosted" },
		"a regular expression": func(e *Expect) { e.Repository = "https://.+" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := widgetExpect()
			change(&want)
			refuses(t, parseTrust(t, vector(t, vectorRoot)), vector(t, vectorBundle), subject, want, WrongIdentity)
		})
	}
}

func TestAWrongSubjectIsRefused(t *testing.T) {
	t.Parallel()
	trust := parseTrust(t, vector(t, vectorRoot))
	refuses(t, trust, vector(t, vectorBundle), digest.FromString("another"), widgetExpect(), WrongSubject)
	// Both subjects are the asked one; a statement about two things is refused nevertheless.
	refuses(t, trust, vector(t, vectorTwo), subject, widgetExpect(), Malformed)
}

func TestATrustedRootWithoutOneAuthorityTrustsNothing(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"certificateAuthorities", "ctlogs", "tlogs", "timestampAuthorities"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			d := document{}
			if err := json.Unmarshal(vector(t, vectorRoot), &d); err != nil {
				t.Fatal(err)
			}
			if d[part] == nil {
				t.Fatalf("the trusted root has no %s", part)
			}
			delete(d, part)
			content, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			refuses(t, parseTrust(t, content), vector(t, vectorBundle), subject, widgetExpect(), Untrusted)
		})
	}
}

func TestAnotherInstancesRootDoesNotTrustTheBundle(t *testing.T) {
	t.Parallel()
	refuses(t, trustOf(t, startLocal(t, widget)), vector(t, vectorBundle), subject, widgetExpect(), Untrusted)
}

func TestHostileBytesAreMalformed(t *testing.T) {
	t.Parallel()
	trust := parseTrust(t, vector(t, vectorRoot))
	for name, content := range map[string][]byte{
		"nothing":             nil,
		"an empty object":     []byte(`{}`),
		"a truncated bundle":  vector(t, vectorBundle)[:1000],
		"more than the limit": make([]byte, maxBundle+1),
		"deep nesting":        []byte(strings.Repeat(`[`, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuses(t, trust, content, subject, widgetExpect(), Malformed)
		})
	}
	if _, err := ParseTrust(family.Local, make([]byte, maxConfig+1)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a trusted root beyond the limit: %v, want Invalid", err)
	}
	if _, err := ParseTrust(family.Local, []byte(`{"mediaType":"text/plain"}`)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a trusted root of another type: %v, want Invalid", err)
	}
}

func TestAnIncompleteQuestionIsInvalid(t *testing.T) {
	t.Parallel()
	trust := parseTrust(t, vector(t, vectorRoot))
	for name, change := range map[string]func(e *Expect, d *digest.Digest){
		"no issuer":             func(e *Expect, _ *digest.Digest) { e.Issuer = "" },
		"no builder":            func(e *Expect, _ *digest.Digest) { e.Builder = "" },
		"no repository":         func(e *Expect, _ *digest.Digest) { e.Repository = "" },
		"no ref of GitHub's":    func(e *Expect, _ *digest.Digest) { e.Issuer, e.Ref = GitHubIssuer, "" },
		"no subject":            func(_ *Expect, d *digest.Digest) { *d = "" },
		"a subject in SHA-512":  func(_ *Expect, d *digest.Digest) { *d = digest.SHA512.FromString("widget 1") },
		"a subject without hex": func(_ *Expect, d *digest.Digest) { *d = "sha256:x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, about := widgetExpect(), subject
			change(&want, &about)
			if _, err := trust.Verify(vector(t, vectorBundle), about, want); !errors.Is(err, fault.Invalid) {
				t.Errorf("Verify = %v, want Invalid", err)
			}
		})
	}
}

func refuses(t *testing.T, trust *Trust, content []byte, about digest.Digest, want Expect, reason Reason) {
	t.Helper()
	v, err := trust.Verify(content, about, want)
	if !errors.Is(err, reason) || !errors.Is(err, fault.Forged) {
		t.Errorf("Verify = %v, want Forged because %q", err, reason)
	}
	if v.Statement.Type != "" {
		t.Error("a refused bundle still gives a statement")
	}
}

// Whatever is accepted carries the signed payload: nothing can be changed and still be believed.
// Run it with -fuzzminimizetime=10x: shrinking a bundle of 7 kB takes the default minute and finds nothing.
func FuzzVerify(f *testing.F) {
	trust := parseTrust(f, vector(f, vectorRoot))
	signed, err := trust.Verify(vector(f, vectorBundle), subject, widgetExpect())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(vector(f, vectorBundle))
	f.Add(vector(f, vectorTwo))
	f.Add([]byte(`{"mediaType":"` + evidence.BundleType + `","verificationMaterial":{"certificate":{}},"dsseEnvelope":{}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		v, err := trust.Verify(content, subject, widgetExpect())
		if err != nil {
			if !errors.Is(err, fault.Forged) {
				t.Errorf("an error that is not Forged: %v", err)
			}
			return
		}
		if string(v.Statement.Predicate) != string(signed.Statement.Predicate) {
			t.Errorf("another predicate is accepted: %s", v.Statement.Predicate)
		}
	})
}
