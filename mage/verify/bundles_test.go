package verify_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
)

// TestForgedBundles: rows D6 and D13, and the classes of Sigstore's conformance vectors. Each is a
// genuine signature but for the one thing its name says.
func TestForgedBundles(t *testing.T) {
	refuse(t, forgedBundles())
}

func forgedBundles() []forgery {
	return slices.Concat(forgedLogs(), forgedTimes(), forgedCertificates(), forgedShapes())
}

const signature = family.DemandSignature

func entryOf(b *bundlepb.Bundle) *rekorpb.TransparencyLogEntry {
	return b.GetVerificationMaterial().GetTlogEntries()[0]
}

// foreign makes the same bundle anew: same owner, same statement, another signature.
func foreign(payload []byte) *bundlepb.Bundle {
	b := new(bundlepb.Bundle)
	if err := protojsonUnmarshal(ours().mint(order{payload: payload}), b); err != nil {
		panic(err)
	}
	return b
}

func forgedLogs() []forgery {
	old := func(at time.Time) []logged { return []logged{{old: true, integrated: at}} }
	return []forgery{
		{"D6", "no log entry", fault.Forged, sigstore.Unlogged, func(s *scene) { s.orders[signature].logs = []logged{{absent: true}} }},
		{"D6", "a log that nobody trusts", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].log = theirs() }},
		{"D6", "an old log that nobody trusts", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].log, s.orders[signature].logs = theirs(), old(now.Add(-time.Hour))
		}},
		{"D6", "the log entry of another signature", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.VerificationMaterial.TlogEntries = foreign(b.GetDsseEnvelope().Payload).VerificationMaterial.TlogEntries
			})
		}},
		{"D6", "no inclusion proof", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).InclusionProof = nil })
		}},
		{"D6", "no checkpoint", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).InclusionProof.Checkpoint = nil })
		}},
		{"checkpoint", "a checkpoint with another key's signature", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				c := entryOf(b).InclusionProof.Checkpoint
				text, _, _ := strings.Cut(c.Envelope, "\n\n")
				c.Envelope = text + "\n" + signedNote(logName, ours().logID[:4], make([]byte, 64))
			})
		}},
		{"checkpoint", "a checkpoint with another key's hint", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				c := entryOf(b).InclusionProof.Checkpoint
				c.Envelope = strings.Replace(c.Envelope, "— "+logName, "— evil."+logName, 1)
			})
		}},
		{"checkpoint", "a checkpoint of another tree", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				entryOf(b).InclusionProof.Checkpoint = entryOf(foreign(b.GetDsseEnvelope().Payload)).InclusionProof.Checkpoint
			})
		}},
		{"inclusion proof", "a proof that leads elsewhere", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).InclusionProof.Hashes = [][]byte{make([]byte, 32)} })
		}},
		{"log index", "a negative log index", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).LogIndex = -1 })
		}},
		{"log index", "an index beyond the tree", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).LogIndex = 7 })
		}},
		{"duplicate", "the same log entry twice", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				m := b.VerificationMaterial
				m.TlogEntries = append(m.TlogEntries, m.TlogEntries[0])
			})
		}},
		{"kind", "an entry of an unknown kind", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				entryOf(b).CanonicalizedBody = []byte(`{"apiVersion":"9","kind":"evil","spec":{}}`)
			})
		}},
		{"SET", "an integrated time after the certificate's life", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].logs = old(now.Add(-30 * time.Minute))
		}},
		{"SET", "an integrated time before the certificate's life", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].logs = old(now.Add(-2 * time.Hour))
		}},
		{"SET", "an integrated time in the future", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].logs = old(now.AddDate(1, 0, 0))
		}},
		{"SET", "an integrated time that was changed after it was signed", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].logs = old(now.Add(-time.Hour))
			s.spoiled(func(b *bundlepb.Bundle) { entryOf(b).IntegratedTime++ })
		}},
		{"D6", "an old entry of another signature", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].logs = old(now.Add(-time.Hour))
			s.spoiled(func(b *bundlepb.Bundle) {
				o := order{payload: b.GetDsseEnvelope().Payload, logs: old(now.Add(-time.Hour))}
				other := new(bundlepb.Bundle)
				_ = protojsonUnmarshal(ours().mint(o), other)
				b.VerificationMaterial.TlogEntries = other.VerificationMaterial.TlogEntries
			})
		}},
	}
}

func forgedTimes() []forgery {
	return []forgery{
		{"D6", "no timestamp", fault.Forged, sigstore.Undated, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil })
		}},
		{"TSA", "a timestamp authority that nobody trusts", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].tsa = theirs() }},
		{"TSA", "a timestamp of another signature", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps[0].SignedTimestamp = ours().stamp([]byte("x"), now.Add(-time.Hour))
			})
		}},
		{"TSA", "a timestamp that is no timestamp", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.VerificationMaterial.TimestampVerificationData.Rfc3161Timestamps[0].SignedTimestamp = []byte("x")
			})
		}},
		{"expired", "a certificate that had expired when it signed", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].begins = now.Add(-2 * time.Hour)
		}},
		{"expired", "a certificate that was not valid yet", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.orders[signature].begins = now.Add(-30 * time.Minute)
		}},
		{"expired", "an authority that was not valid yet", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.every(func(o *order) { o.at = born.AddDate(-1, 0, 0) })
		}},
		{"D6", "a signature from the future", fault.Forged, "its signature is from the future", func(s *scene) {
			s.every(func(o *order) { o.at = now.Add(time.Hour) })
		}},
		{"D8", "a signature older than the policy allows", fault.Refused, "its signature is older than the policy allows", func(s *scene) {
			s.policy.MaxAge = 30 * time.Minute
		}},
	}
}

func forgedCertificates() []forgery {
	return []forgery{
		{"D13", "a certificate of another instance", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].ca = theirs() }},
		{"D13", "everything of another instance", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.every(func(o *order) { o.ca, o.ct, o.log, o.tsa = theirs(), theirs(), theirs(), theirs() })
		}},
		{"D13", "another instance's root", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = theirs().trustedRoot }},
		{"D13", "the public instance's root", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = nil }},
		{"D13", "a root that names no log", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = ours().withoutLogs }},
		{"D13", "a root that names no timestamp authority", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = ours().withoutLatest }},
		{"D13", "a root whose certificate authority had retired", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = ours().trusted(lacking{certificatesNow: true}) }},
		{"D13", "a root whose timestamp authority had retired", fault.Forged, sigstore.Untrusted, func(s *scene) { s.root = ours().trusted(lacking{timesNow: true}) }},
		{"D13", "GitHub's instance without its root", fault.Environment, "", func(s *scene) { s.policy.Instance, s.root = family.GitHub, nil }},
		{"D13", "GitHub's instance with a root that has logs, which would then not be asked", fault.Environment, "", func(s *scene) { s.policy.Instance = family.GitHub }},
		{"D11", "a root of more bytes than the limit", fault.Invalid, "", func(s *scene) {
			s.root = append(slices.Clone(s.root), strings.Repeat(" ", 1<<20)...)
		}},
		{"D13", "a root that is none", fault.Invalid, "", func(s *scene) { s.root = []byte("{}") }},
		{"D13", "this machine's instance without its root", fault.Environment, "", func(s *scene) { s.policy.Instance, s.root = family.Local, nil }},
		{"D13", "a private repository's signature, which is in no log, under public rules", fault.Forged, sigstore.Unlogged, func(s *scene) {
			s.every(func(o *order) { o.noSCT, o.logs = true, []logged{{absent: true}} })
		}},
		{"D13", "GitHub's instance, and no timestamp", fault.Forged, sigstore.Undated, func(s *scene) {
			s.gitHubsInstance()
			s.spoiled(func(b *bundlepb.Bundle) { b.VerificationMaterial.TimestampVerificationData = nil })
		}},
		{"D13", "GitHub's instance, and a timestamp of nobody's", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.gitHubsInstance()
			s.orders[signature].tsa = theirs()
		}},
		{"D13", "GitHub's instance, and a key instead of a certificate", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.gitHubsInstance()
			s.spoiled(withKey)
		}},
		{"SCT", "a certificate that was promised to no log", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].noSCT = true }},
		{"SCT", "a promise of a log that nobody trusts", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].ct = theirs() }},
		{"certificate", "a signature by another key than the certificate's", fault.Forged, sigstore.Untrusted, func(s *scene) { s.orders[signature].signer = newKey() }},
		{"certificate", "another bundle's certificate", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.VerificationMaterial.Content = foreign(b.GetDsseEnvelope().Payload).VerificationMaterial.Content
			})
		}},
		{"certificate", "a chain with the root certificate in it", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				leaf := b.VerificationMaterial.GetCertificate()
				b.VerificationMaterial.Content = &bundlepb.VerificationMaterial_X509CertificateChain{X509CertificateChain: &commonpb.X509CertificateChain{
					Certificates: []*commonpb.X509Certificate{leaf, {RawBytes: ours().ca.Raw}},
				}}
			})
		}},
		{"certificate", "an authority's certificate as the signer's", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.VerificationMaterial.GetCertificate().RawBytes = ours().leafCA.Raw })
		}},
		{"certificate", "bytes that are no certificate", fault.Forged, "", func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.VerificationMaterial.GetCertificate().RawBytes = []byte("x") })
		}},
		{"certificate", "a key instead of a certificate", fault.Forged, sigstore.Malformed, func(s *scene) { s.spoiled(withKey) }},
	}
}

func withKey(b *bundlepb.Bundle) {
	b.VerificationMaterial.Content = &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: "x"}}
}

func forgedShapes() []forgery {
	after := func(change func(string) string) func(*scene) {
		return func(s *scene) {
			s.bundle = func(d family.Demand, bundle string) string {
				if d != signature {
					return bundle
				}
				return change(bundle)
			}
		}
	}
	return []forgery{
		{"envelope", "a payload that was changed after it was signed", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				e := b.GetDsseEnvelope()
				e.Payload = []byte(strings.Replace(string(e.Payload), `"name":"widget"`, `"name":"gadget"`, 1))
			})
		}},
		{"envelope", "another bundle's signature", fault.Forged, sigstore.Untrusted, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.GetDsseEnvelope().Signatures = foreign(b.GetDsseEnvelope().Payload).GetDsseEnvelope().Signatures
			})
		}},
		{"envelope", "two signatures", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				e := b.GetDsseEnvelope()
				e.Signatures = append(e.Signatures, &dssepb.Signature{Sig: []byte("x")})
			})
		}},
		{"envelope", "no signature", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.GetDsseEnvelope().Signatures = nil })
		}},
		{"envelope", "another payload type", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.GetDsseEnvelope().PayloadType = "application/vnd.in-toto+yaml" })
		}},
		{"envelope", "a message signature instead of an envelope", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) {
				b.Content = &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{Signature: []byte("x")}}
			})
		}},
		{"version", "an older bundle version", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2" })
		}},
		{"version", "a version by its older name", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.3" })
		}},
		{"version", "an unknown bundle version", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.spoiled(func(b *bundlepb.Bundle) { b.MediaType = "application/vnd.dev.sigstore.bundle.v0.4+json" })
		}},
		{"JSON", "no JSON", fault.Forged, sigstore.Malformed, after(func(string) string { return "-----BEGIN" })},
		{"JSON", "half a bundle", fault.Forged, sigstore.Malformed, after(func(b string) string { return b[:len(b)/2] })},
		{"JSON", "a member that the format has not", fault.Forged, sigstore.Malformed, after(func(b string) string { return `{"evil":1,` + b[1:] })},
		{"JSON", "a member that stands there twice", fault.Forged, sigstore.Malformed, after(func(b string) string {
			return `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",` + b[1:]
		})},
		{"JSON", "a payload that is not base64", fault.Forged, sigstore.Malformed, after(func(b string) string { return strings.Replace(b, `"payload":"`, `"payload":"!`, 1) })},
		{"D11", "JSON nested a million deep", fault.Forged, sigstore.Malformed, after(func(string) string { return strings.Repeat("[", 1<<20) })},
		{"D11", "a bundle larger than the limit", fault.Forged, sigstore.Malformed, after(func(b string) string { return b + strings.Repeat(" ", 49<<20) })},
	}
}
