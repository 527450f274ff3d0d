package verify_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/digitorus/timestamp"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
)

// A forge is a Sigstore instance in one value: certificate authority, certificate log, transparency
// logs of both versions and timestamp authority, with real keys. It signs whatever it is told to,
// at whatever time, and so makes bundles that are wrong in exactly one way and genuine in all others.
type forge struct {
	ca, leafCA    *x509.Certificate // root, intermediate
	caKey         *ecdsa.PrivateKey // of the intermediate
	ctKey         *ecdsa.PrivateKey
	tsa           []*x509.Certificate // leaf, root
	tsaKey        *ecdsa.PrivateKey
	logKey        ed25519.PrivateKey // Rekor v2
	logID         []byte
	oldLogKey     *ecdsa.PrivateKey // Rekor v1
	trustedRoot   []byte
	withoutLogs   []byte // the trusted root that names no transparency log
	withoutLatest []byte // the trusted root without the timestamp authority
}

// born is when the forge's authorities begin to be valid; now is when everything is verified.
var (
	born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

const (
	logName    = "log.forge.example"
	oldLogName = "oldlog.forge.example"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func certify(template, parent *x509.Certificate, public crypto.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	if template.SerialNumber == nil {
		template.SerialNumber = must(rand.Int(rand.Reader, big.NewInt(1<<62)))
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, public, by))))
}

func authority(name string, usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"forge"}, CommonName: name}, NotBefore: born, NotAfter: born.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
}

func newForge() *forge {
	f := &forge{caKey: newKey(), ctKey: newKey(), tsaKey: newKey(), oldLogKey: newKey()}
	rootKey, tsaRootKey := newKey(), newKey()
	rootTemplate := authority("root", x509.ExtKeyUsageCodeSigning)
	f.ca = certify(rootTemplate, rootTemplate, rootKey.Public(), rootKey)
	f.leafCA = certify(authority("intermediate", x509.ExtKeyUsageCodeSigning), f.ca, f.caKey.Public(), rootKey)
	tsaTemplate := authority("tsa root", x509.ExtKeyUsageTimeStamping)
	tsaRoot := certify(tsaTemplate, tsaTemplate, tsaRootKey.Public(), tsaRootKey)
	usage := must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))
	tsaLeaf := certify(&x509.Certificate{
		Subject: pkix.Name{Organization: []string{"forge"}, CommonName: "tsa"}, NotBefore: born, NotAfter: born.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, tsaRoot, f.tsaKey.Public(), tsaRootKey)
	f.tsa = []*x509.Certificate{tsaLeaf, tsaRoot}
	_, f.logKey, _ = ed25519.GenerateKey(rand.Reader)
	_, id, err := note.KeyHash(logName, f.logKey.Public())
	f.logID = must(id, err)
	f.trustedRoot = f.trusted(lacking{})
	f.withoutLogs = f.trusted(lacking{logs: true})
	f.withoutLatest = f.trusted(lacking{times: true})
	return f
}

func pkix256(key crypto.PublicKey) []byte {
	sum := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key)))
	return sum[:]
}

// lacking is what a trusted root does not have, or has no longer.
type lacking struct{ logs, times, certificatesNow, timesNow bool }

func (f *forge) trusted(without lacking) []byte {
	ended := func(is bool) (at time.Time) {
		if is {
			at = born.AddDate(0, 1, 0)
		}
		return at
	}
	asLog := func(id []byte, url string, key crypto.PublicKey) map[string]*root.TransparencyLog {
		return map[string]*root.TransparencyLog{hex.EncodeToString(id): {
			BaseURL: url, ID: id, PublicKey: key, ValidityPeriodStart: born, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		}}
	}
	entries := map[string]*root.TransparencyLog{}
	if !without.logs {
		entries = asLog(f.logID, "https://"+logName, f.logKey.Public())
		for id, l := range asLog(pkix256(f.oldLogKey.Public()), "https://"+oldLogName, f.oldLogKey.Public()) {
			entries[id] = l
		}
	}
	var authorities []root.TimestampingAuthority
	if !without.times {
		authorities = append(authorities, &root.SigstoreTimestampingAuthority{Root: f.tsa[1], Leaf: f.tsa[0], ValidityPeriodStart: born, ValidityPeriodEnd: ended(without.timesNow), URI: "https://tsa.forge.example"})
	}
	trusted := must(root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: f.ca, Intermediates: []*x509.Certificate{f.leafCA}, ValidityPeriodStart: born, ValidityPeriodEnd: ended(without.certificatesNow), URI: "https://fulcio.forge.example"}},
		asLog(pkix256(f.ctKey.Public()), "https://ct.forge.example", f.ctKey.Public()), authorities, entries))
	return must(json.Marshal(trusted))
}

// who is what a certificate says of its owner: the extensions of Fulcio's table, and the subject.
type who struct {
	subject, issuer, signer, runner       string
	repository, commit, ref               string
	repositoryID, ownerID, workflow, runs string
	sub                                   string // the token's subject claim
	twice                                 bool   // the subject stands there twice
	email                                 string // beside the subject, which no honest one has
}

const (
	widgetRepository = "https://github.com/acme/widget"
	widgetCommit     = "0123456789abcdef0123456789abcdef01234567"
	releaseWorkflow  = widgetRepository + "/.github/workflows/release.yml@refs/heads/main"
	gitHubIssuer     = "https://token.actions.githubusercontent.com"
)

// honest is who releases the widget.
func honest() who {
	return who{
		subject: releaseWorkflow, signer: releaseWorkflow, issuer: gitHubIssuer, runner: "github-hosted",
		repository: widgetRepository, repositoryID: "4242", ownerID: "77", commit: widgetCommit, ref: "refs/heads/main",
		workflow: releaseWorkflow, runs: widgetRepository + "/actions/runs/1001/attempts/1",
	}
}

// identity is what an honest signer writes into provenance, from the same claims.
func (w who) identity() evidence.Identity {
	return evidence.Identity{
		Issuer: w.issuer, BuilderID: w.signer, BuildType: evidence.GitHubBuildType, Repository: w.repository, Ref: w.ref, Commit: w.commit,
		WorkflowPath: ".github/workflows/release.yml", InvocationID: w.runs,
	}
}

// extensions are Fulcio's, https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
func (w who) extensions() []pkix.Extension {
	var list []pkix.Extension
	for _, x := range []struct {
		number int
		value  string
	}{
		{8, w.issuer}, {9, w.signer}, {11, w.runner}, {12, w.repository}, {13, w.commit}, {14, w.ref},
		{15, w.repositoryID}, {17, w.ownerID}, {18, w.workflow}, {21, w.runs}, {24, w.sub},
	} {
		if x.value != "" {
			list = append(list, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, x.number}, Value: must(asn1.MarshalWithParams(x.value, "utf8"))})
		}
	}
	return list
}

// order is a bundle to be made. Its zero value with a payload is an honest one of an hour ago.
type order struct {
	payload []byte
	who     *who
	at      time.Time // of the timestamp; the certificate begins a minute before
	begins  time.Time // of the certificate, when not that
	ca      *forge    // whose certificate, promise, time and log, when not this forge's
	ct      *forge
	tsa     *forge
	log     *forge
	noSCT   bool
	logs    []logged // nil is one entry of Rekor v2
	signer  *ecdsa.PrivateKey
	spoil   func(*bundlepb.Bundle)
}

// logged is a log entry to be made.
type logged struct {
	old        bool      // Rekor v1, with an inclusion promise
	integrated time.Time // of Rekor v1
	absent     bool      // no entry at all
}

func orElse(a, b *forge) *forge {
	if a != nil {
		return a
	}
	return b
}

// mint makes a bundle, all of it genuinely signed.
func (f *forge) mint(o order) []byte {
	if o.at.IsZero() {
		o.at = now.Add(-time.Hour)
	}
	if o.begins.IsZero() {
		o.begins = o.at.Add(-time.Minute)
	}
	owner := honest()
	if o.who != nil {
		owner = *o.who
	}
	key := newKey()
	leaf := orElse(o.ca, f).leaf(owner, key, o.begins, orElse(o.ct, f), o.noSCT)
	if o.signer != nil {
		key = o.signer
	}
	sum := sha256.Sum256(pae(o.payload))
	signature := must(ecdsa.SignASN1(rand.Reader, key, sum[:]))
	b := &bundlepb.Bundle{
		MediaType: evidence.BundleType,
		VerificationMaterial: &bundlepb.VerificationMaterial{
			Content: &bundlepb.VerificationMaterial_Certificate{Certificate: &commonpb.X509Certificate{RawBytes: leaf.Raw}},
			TimestampVerificationData: &bundlepb.TimestampVerificationData{
				Rfc3161Timestamps: []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: orElse(o.tsa, f).stamp(signature, o.at)}},
			},
		},
		Content: &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{
			Payload: o.payload, PayloadType: evidence.PayloadT, Signatures: []*dssepb.Signature{{Sig: signature}},
		}},
	}
	if o.logs == nil {
		o.logs = []logged{{}}
	}
	for _, l := range o.logs {
		switch {
		case l.absent:
		case l.old:
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, orElse(o.log, f).oldEntry(o.payload, signature, leaf, l.integrated))
		default:
			b.VerificationMaterial.TlogEntries = append(b.VerificationMaterial.TlogEntries, orElse(o.log, f).entry(sum[:], signature, leaf))
		}
	}
	if o.spoil != nil {
		o.spoil(b)
	}
	return must(protojson.Marshal(b))
}

// pae is DSSE's pre-authentication encoding.
func pae(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(evidence.PayloadT), evidence.PayloadT, len(payload), payload)
}

// leaf issues a certificate of ten minutes with the log's promise embedded, RFC 6962 section 3.3.
func (f *forge) leaf(w who, key *ecdsa.PrivateKey, begins time.Time, ct *forge, noSCT bool) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))), NotBefore: begins, NotAfter: begins.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, ExtraExtensions: w.extensions(),
	}
	if w.subject != "" {
		template.URIs = []*url.URL{must(url.Parse(w.subject))}
		if w.twice {
			template.URIs = append(template.URIs, template.URIs[0])
		}
	}
	if w.email != "" {
		template.EmailAddresses = []string{w.email}
	}
	before := certify(template, f.leafCA, key.Public(), f.caKey)
	if noSCT {
		return before
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{
		Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: must(asn1.Marshal(ct.promise(before, f.leafCA, begins))),
	})
	return certify(template, f.leafCA, key.Public(), f.caKey)
}

// promise is a list of one signed certificate timestamp over a certificate without it.
func (f *forge) promise(c, issuer *x509.Certificate, at time.Time) []byte {
	millis := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	issued := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	signed := append([]byte{0, 0}, millis...) // v1, certificate_timestamp
	signed = append(signed, 0, 1)             // precert_entry
	signed = append(signed, issued[:]...)
	n := len(c.RawTBSCertificate)
	signed = append(signed, byte(n>>16), byte(n>>8), byte(n))
	signed = append(append(signed, c.RawTBSCertificate...), 0, 0) // no extensions
	sum := sha256.Sum256(signed)
	signature := must(ecdsa.SignASN1(rand.Reader, f.ctKey, sum[:]))
	sct := append([]byte{0}, pkix256(f.ctKey.Public())...)
	sct = append(append(sct, millis...), 0, 0, 4, 3) // no extensions; SHA-256, ECDSA
	sct = append(binary.BigEndian.AppendUint16(sct, uint16(len(signature))), signature...)
	one := append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(one))), one...)
}

// stamp is an RFC 3161 response.
func (f *forge) stamp(signature []byte, at time.Time) []byte {
	sum := sha256.Sum256(signature)
	token := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at, Accuracy: time.Second, AddTSACertificate: true,
		SerialNumber: must(rand.Int(rand.Reader, big.NewInt(1<<62))), Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
	}
	return must(token.CreateResponseWithOpts(f.tsa[0], f.tsaKey, crypto.SHA256))
}

// entry is a Rekor v2 entry: the only leaf of a tree whose signed checkpoint comes with it.
func (f *forge) entry(sum, signature []byte, leaf *x509.Certificate) *rekorpb.TransparencyLogEntry {
	s := &tilespb.Signature{Content: signature, Verifier: &tilespb.Verifier{
		Verifier:   &tilespb.Verifier_X509Certificate{X509Certificate: &commonpb.X509Certificate{RawBytes: leaf.Raw}},
		KeyDetails: commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	}}
	body := must(protojson.Marshal(&tilespb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tilespb.Spec{Spec: &tilespb.Spec_HashedRekordV002{
		HashedRekordV002: &tilespb.HashedRekordLogEntryV002{Data: &commonpb.HashOutput{Algorithm: commonpb.HashAlgorithm_SHA2_256, Digest: sum}, Signature: s},
	}}}))
	hash := must(hashedrekord.ToEntryHash(sum, s))
	text := fmt.Sprintf("%s\n1\n%s\n", logName, base64.StdEncoding.EncodeToString(hash))
	line := signedNote(logName, f.logID[:4], ed25519.Sign(f.logKey, []byte(text)))
	return &rekorpb.TransparencyLogEntry{
		LogId: &commonpb.LogId{KeyId: f.logID}, KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"}, CanonicalizedBody: body,
		InclusionProof: &rekorpb.InclusionProof{RootHash: hash, TreeSize: 1, Checkpoint: &rekorpb.Checkpoint{Envelope: text + line}},
	}
}

func signedNote(name string, hint, signature []byte) string {
	return "\n— " + name + " " + base64.StdEncoding.EncodeToString(append(append([]byte{}, hint...), signature...)) + "\n"
}

// oldEntry is a Rekor v1 entry of kind dsse, with inclusion promise and proof.
func (f *forge) oldEntry(payload, signature []byte, leaf *x509.Certificate, at time.Time) *rekorpb.TransparencyLogEntry {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	hash := func(content []byte) map[string]string {
		sum := sha256.Sum256(content)
		return map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}
	}
	body := must(json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "dsse", "spec": map[string]any{
		"envelopeHash": hash(payload), "payloadHash": hash(payload),
		"signatures": []any{map[string]any{"signature": base64.StdEncoding.EncodeToString(signature), "verifier": certificate}},
	}}))
	leafHash := sha256.Sum256(append([]byte{0}, body...)) // RFC 6962 section 2.1
	id := pkix256(f.oldLogKey.Public())
	sign := func(content []byte) []byte {
		sum := sha256.Sum256(content)
		return must(ecdsa.SignASN1(rand.Reader, f.oldLogKey, sum[:]))
	}
	promised := fmt.Appendf(nil, `{"body":"%s","integratedTime":%d,"logID":"%x","logIndex":0}`, base64.StdEncoding.EncodeToString(body), at.Unix(), id)
	text := fmt.Sprintf("%s - 1193050959916656506\n1\n%s\n", oldLogName, base64.StdEncoding.EncodeToString(leafHash[:]))
	return &rekorpb.TransparencyLogEntry{
		LogId: &commonpb.LogId{KeyId: id}, KindVersion: &rekorpb.KindVersion{Kind: "dsse", Version: "0.0.1"}, CanonicalizedBody: body, IntegratedTime: at.Unix(),
		InclusionPromise: &rekorpb.InclusionPromise{SignedEntryTimestamp: sign(promised)},
		InclusionProof: &rekorpb.InclusionProof{RootHash: leafHash[:], TreeSize: 1, Checkpoint: &rekorpb.Checkpoint{
			Envelope: text + signedNote(oldLogName, id[:4], sign([]byte(text))),
		}},
	}
}
