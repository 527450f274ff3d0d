package legacy_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/verify/legacy"
)

const (
	repository = "https://example.com/acme/widget"
	commit     = "1111111111111111111111111111111111111111"
)

// workshop signs as cosign did before bundles, with a Sigstore of this machine.
type workshop struct {
	local *sigstore.Local
	root  []byte
	host  string // of a registry
	log   *ecdsa.PrivateKey
	next  int
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	library, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	helper := tool.Program{Name: "sigstore-local", Version: "dev", Package: ".", Dir: filepath.Join(library, "mage", "sigstore-local")}
	path, err := helper.Build(t.Context(), filepath.Join(cache, "containai", "programs"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{log: newKey(t)}
	w.local, err = sigstore.StartLocal(context.WithoutCancel(t.Context()), path, filepath.Join(t.TempDir(), "sigstore"), sigstore.Claims{
		Repository: repository, Ref: "refs/heads/main", Commit: commit, Workflow: "family.yaml",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.local.Close() })
	if w.root, err = os.ReadFile(w.local.Services.TrustedRoot); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	w.host = strings.TrimPrefix(server.URL, "http://")
	return w
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// image pushes an image that nobody signed yet.
func (w *workshop) image(t *testing.T) ref.Pinned {
	t.Helper()
	w.next++
	repo := fmt.Sprintf("%s/acme/widget-%d", w.host, w.next)
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(repo), types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	d := w.push(t, repo+":v1", img)
	return ref.Pinned{Repo: ref.Repo{Host: w.host, Path: strings.TrimPrefix(repo, w.host+"/")}, Digest: digest.Digest(d.String())}
}

func (w *workshop) push(t *testing.T, at string, img v1.Image) v1.Hash {
	t.Helper()
	tag, err := name.NewTag(at, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// layer is one signature or attestation: a payload, and in annotations what proves it.
type layer struct {
	mediaType   types.MediaType
	payload     []byte
	annotations map[string]string
}

const (
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelope      = "application/vnd.dsse.envelope.v1+json"
	signatureKey  = "dev.cosignproject.cosign/signature"
	certificate   = "dev.sigstore.cosign/certificate"
	stamp         = "dev.sigstore.cosign/rfc3161timestamp"
	entry         = "dev.sigstore.cosign/bundle"
)

// hang pushes layers as the .sig or .att of a subject.
func (w *workshop) hang(t *testing.T, subject ref.Pinned, suffix string, layers ...layer) {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	for _, l := range layers {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(l.payload, l.mediaType), Annotations: l.annotations}); err != nil {
			t.Fatal(err)
		}
	}
	w.push(t, subject.Repo.String()+":sha256-"+subject.Digest.Encoded()+suffix, img)
}

// claim is the payload of a signature.
func claim(d digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, d)
}

// signature signs a claim about a digest without a key that lasts.
func (w *workshop) signature(t *testing.T, d digest.Digest) layer {
	t.Helper()
	b := w.bundle(t, &sign.PlainData{Data: claim(d)})
	signed := b.GetMessageSignature().GetSignature()
	return layer{simpleSigning, claim(d), map[string]string{
		signatureKey: base64.StdEncoding.EncodeToString(signed), certificate: leafOf(b), stamp: w.stamp(t, signed),
	}}
}

// attestation signs a statement; subjects are whom it is about.
func (w *workshop) attestation(t *testing.T, subjects ...digest.Digest) layer {
	t.Helper()
	var about []evidence.Subject
	for _, d := range subjects {
		about = append(about, evidence.Subject{Name: "x", Digest: map[string]string{"sha256": d.Encoded()}})
	}
	st, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v0.1", "subject": about, "predicateType": evidence.Provenance, "predicate": map[string]int{"a": 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := w.bundle(t, &sign.DSSEData{Data: st, PayloadType: evidence.PayloadT})
	content, err := json.Marshal(map[string]any{
		"payloadType": evidence.PayloadT, "payload": st,
		"signatures": []map[string][]byte{{"sig": b.GetDsseEnvelope().GetSignatures()[0].GetSig()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return layer{envelope, content, map[string]string{
		signatureKey: "", "predicateType": evidence.Provenance, certificate: leafOf(b), stamp: w.stamp(t, content),
	}}
}

func (w *workshop) services(t *testing.T) *root.SigningConfig {
	t.Helper()
	config, err := root.NewSigningConfigFromPath(w.local.Services.SigningConfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func (w *workshop) bundle(t *testing.T, content sign.Content) *bundlepb.Bundle {
	t.Helper()
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := w.local.Services.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := sign.Bundle(content, key, sign.BundleOptions{
		Context:                    t.Context(),
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: w.services(t).FulcioCertificateAuthorityURLs()[0].URL}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *workshop) stamp(t *testing.T, of []byte) string {
	t.Helper()
	authority := sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: w.services(t).TimestampAuthorityURLs()[0].URL})
	answer, err := authority.GetTimestamp(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string][]byte{"SignedRFC3161Timestamp": answer})
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func leafOf(b *bundlepb.Bundle) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.GetVerificationMaterial().GetCertificate().GetRawBytes()}))
}

// logged replaces a signature's timestamp by an entry of Rekor v1, as the public instance gave them:
// the log's promise over a hashedrekord.
func (w *workshop) logged(t *testing.T, l layer) layer {
	t.Helper()
	sum := sha256.Sum256(l.payload)
	body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`,
		sum, l.annotations[signatureKey], base64.StdEncoding.EncodeToString([]byte(l.annotations[certificate])))
	payload := fmt.Sprintf(`{"body":"%s","integratedTime":%d,"logID":"%s","logIndex":7}`,
		base64.StdEncoding.EncodeToString(body), time.Now().Unix(), hex.EncodeToString(w.logID(t)))
	promised := sha256.Sum256([]byte(payload))
	promise, err := ecdsa.SignASN1(rand.Reader, w.log, promised[:])
	if err != nil {
		t.Fatal(err)
	}
	l.annotations[entry] = fmt.Sprintf(`{"SignedEntryTimestamp":"%s","Payload":%s}`, base64.StdEncoding.EncodeToString(promise), payload)
	delete(l.annotations, stamp)
	return l
}

func (w *workshop) logID(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(w.log.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return sum[:]
}

// publicTrust is the Sigstore's root with the old log in it, as the public instance's root has one.
func (w *workshop) publicTrust(t *testing.T) *sigstore.Trust {
	t.Helper()
	known, err := root.NewTrustedRootFromJSON(w.root)
	if err != nil {
		t.Fatal(err)
	}
	id := w.logID(t)
	all, err := root.NewTrustedRoot(root.TrustedRootMediaType01, known.FulcioCertificateAuthorities(), known.CTLogs(), known.TimestampingAuthorities(), map[string]*root.TransparencyLog{
		hex.EncodeToString(id): {
			BaseURL: "https://rekor.example", ID: id, ValidityPeriodStart: time.Now().Add(-time.Hour), HashFunc: crypto.SHA256,
			PublicKey: w.log.Public(), SignatureHashFunc: crypto.SHA256,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, family.Public, content)
}

func parse(t *testing.T, instance family.Instance, content []byte) *sigstore.Trust {
	t.Helper()
	trust, err := sigstore.ParseTrust(instance, content)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func localPolicy() family.Policy {
	return family.Policy{Instance: family.Local, Signer: sigstore.LocalSigner(repository)}
}

func publicPolicy() family.Policy {
	p := family.Policy{Instance: family.Public, Signer: sigstore.LocalSigner(repository)}
	p.Signer.Ref = "refs/heads/main"
	return p
}

func TestWhatCosignSignedBeforeBundlesIsRead(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	t.Run("without a key that lasts, timestamped", func(t *testing.T) {
		d := w.image(t)
		w.hang(t, d, ".sig", w.signature(t, d.Digest))
		w.hang(t, d, ".att", w.attestation(t, d.Digest))
		found, err := legacy.Read(t.Context(), d, parse(t, family.Local, w.root), localPolicy())
		if err != nil || found.Signatures != 1 || len(found.Attestations) != 1 {
			t.Fatalf("Read = %+v, %v", found, err)
		}
		if st := found.Attestations[0]; st.PredicateType != evidence.Provenance || st.About() != d.Digest || string(st.Predicate) != `{"a":1}` {
			t.Errorf("statement %+v", st)
		}
	})
	t.Run("logged by Rekor v1", func(t *testing.T) {
		d := w.image(t)
		w.hang(t, d, ".sig", w.logged(t, w.signature(t, d.Digest)))
		found, err := legacy.Read(t.Context(), d, w.publicTrust(t), publicPolicy())
		if err != nil || found.Signatures != 1 {
			t.Fatalf("Read = %+v, %v", found, err)
		}
	})
	t.Run("with a key", func(t *testing.T) {
		d, key := w.image(t), newKey(t)
		w.hang(t, d, ".sig", signedBy(t, key, d.Digest))
		policy := family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(t, key)}}
		found, err := legacy.Read(t.Context(), d, parse(t, family.Key, nil), policy)
		if err != nil || found.Signatures != 1 {
			t.Fatalf("Read = %+v, %v", found, err)
		}
	})
	t.Run("a stranger's signature beside it neither helps nor disturbs", func(t *testing.T) {
		d := w.image(t)
		w.hang(t, d, ".sig", signedBy(t, newKey(t), d.Digest), w.signature(t, d.Digest))
		found, err := legacy.Read(t.Context(), d, parse(t, family.Local, w.root), localPolicy())
		if err != nil || found.Signatures != 1 {
			t.Fatalf("Read = %+v, %v", found, err)
		}
	})
}

func signedBy(t *testing.T, key *ecdsa.PrivateKey, d digest.Digest) layer {
	t.Helper()
	sum := sha256.Sum256(claim(d))
	signed, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return layer{simpleSigning, claim(d), map[string]string{signatureKey: base64.StdEncoding.EncodeToString(signed)}}
}

func TestALegacySignatureThatDoesNotCountIsRefused(t *testing.T) {
	t.Parallel()
	w, other := newWorkshop(t), newWorkshop(t)
	local := parse(t, family.Local, w.root)
	elsewhere := digest.FromString("elsewhere")
	for name, c := range map[string]struct {
		hang   func(t *testing.T, d ref.Pinned)
		trust  *sigstore.Trust
		policy family.Policy
		want   error
	}{
		"D1 nothing": {func(*testing.T, ref.Pinned) {}, local, localPolicy(), fault.Unverified},
		"D2 another repository": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, d.Digest)) },
			local, family.Policy{Instance: family.Local, Signer: sigstore.LocalSigner(repository + "-fork")}, sigstore.WrongIdentity},
		"D2 another key": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", signedBy(t, newKey(t), d.Digest)) },
			parse(t, family.Key, nil), family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(t, newKey(t))}}, sigstore.Untrusted},
		"D4 a signature about something else": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, elsewhere)) },
			local, localPolicy(), sigstore.Untrusted},
		"D4 a claim that was changed after it was signed": {func(t *testing.T, d ref.Pinned) {
			l := w.signature(t, elsewhere)
			l.payload = claim(d.Digest)
			w.hang(t, d, ".sig", l)
		}, local, localPolicy(), sigstore.Untrusted},
		"D4 an attestation of two subjects": {func(t *testing.T, d ref.Pinned) {
			w.hang(t, d, ".sig", w.signature(t, d.Digest))
			w.hang(t, d, ".att", w.attestation(t, d.Digest, elsewhere))
		}, local, localPolicy(), sigstore.WrongSubject},
		"D4 an attestation about something else": {func(t *testing.T, d ref.Pinned) {
			w.hang(t, d, ".sig", w.signature(t, d.Digest))
			w.hang(t, d, ".att", w.attestation(t, elsewhere))
		}, local, localPolicy(), sigstore.Untrusted},
		"D4 an attestation about something else beside a good one": {func(t *testing.T, d ref.Pinned) {
			w.hang(t, d, ".sig", w.signature(t, d.Digest))
			w.hang(t, d, ".att", w.attestation(t, d.Digest), w.attestation(t, elsewhere))
		}, local, localPolicy(), sigstore.Untrusted},
		"D5 an attestation of somebody else beside ours": {func(t *testing.T, d ref.Pinned) {
			w.hang(t, d, ".sig", w.signature(t, d.Digest))
			w.hang(t, d, ".att", w.attestation(t, d.Digest), other.attestation(t, d.Digest))
		}, local, localPolicy(), sigstore.Untrusted},
		"D6 no time, and a certificate that happens to be alive": {func(t *testing.T, d ref.Pinned) {
			l := w.signature(t, d.Digest)
			delete(l.annotations, stamp)
			w.hang(t, d, ".sig", l)
		}, local, localPolicy(), sigstore.Undated},
		"D6 the time of another signature": {func(t *testing.T, d ref.Pinned) {
			l := w.signature(t, d.Digest)
			l.annotations[stamp] = w.signature(t, d.Digest).annotations[stamp]
			w.hang(t, d, ".sig", l)
		}, local, localPolicy(), sigstore.Untrusted},
		"D6 no log entry where one is demanded": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, d.Digest)) },
			w.publicTrust(t), publicPolicy(), sigstore.Untrusted},
		"D6 the log entry of another signature": {func(t *testing.T, d ref.Pinned) {
			l := w.signature(t, d.Digest)
			l.annotations[entry] = w.logged(t, w.signature(t, d.Digest)).annotations[entry]
			w.hang(t, d, ".sig", l)
		}, w.publicTrust(t), publicPolicy(), sigstore.Untrusted},
		"D11 more layers than anybody signs": {func(t *testing.T, d ref.Pinned) {
			w.hang(t, d, ".sig", many(t, 65)...)
		}, local, localPolicy(), fault.Refused},
		"D13 the root of another Sigstore": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, d.Digest)) },
			parse(t, family.Local, other.root), localPolicy(), sigstore.Untrusted},
		"D13 GitHub's own instance, which never signed so": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, d.Digest)) },
			local, family.Policy{Instance: family.GitHub, Signer: publicPolicy().Signer}, fault.Invalid},
		"D13 a root that was read as another instance's": {func(t *testing.T, d ref.Pinned) { w.hang(t, d, ".sig", w.signature(t, d.Digest)) },
			w.publicTrust(t), localPolicy(), fault.Invalid},
		"a policy that names nobody": {func(*testing.T, ref.Pinned) {}, local, family.Policy{Instance: family.Local}, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			d := w.image(t)
			c.hang(t, d)
			found, err := legacy.Read(t.Context(), d, c.trust, c.policy)
			kind, isKind := c.want.(fault.Kind)
			if !isKind {
				kind = fault.Forged // because of a reason
			}
			if got, _ := fault.KindOf(err); got != kind || !errors.Is(err, c.want) || strings.Contains(fmt.Sprint(err), "%!") {
				t.Errorf("Read = %+v, %v, want %v because %v", found, err, kind, c.want)
			}
		})
	}
}

// What the policy denies is refused however it was signed; what it asks for and old
// signatures do not answer makes the question invalid.
func TestTheWholePolicyCountsForOldSignatures(t *testing.T) {
	t.Parallel()
	w, key := newWorkshop(t), newKey(t)
	d, byKey := w.image(t), w.image(t)
	w.hang(t, d, ".sig", w.signature(t, d.Digest))
	w.hang(t, d, ".att", w.attestation(t, d.Digest))
	w.hang(t, byKey, ".sig", signedBy(t, key, byKey.Digest))
	local, keys := parse(t, family.Local, w.root), parse(t, family.Key, nil)
	keyPolicy := family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(t, key)}}
	for name, c := range map[string]struct {
		subject ref.Pinned
		trust   *sigstore.Trust
		policy  family.Policy
		change  func(*family.Policy)
		want    fault.Kind // 0: accepted
	}{
		"another digest and commit are denied": {d, local, localPolicy(), deny(family.Denial{Digest: byKey.Digest}, family.Denial{Commit: strings.Repeat("2", 40)}), 0},
		"the digest is denied":                 {d, local, localPolicy(), deny(family.Denial{Digest: d.Digest, Reason: "it leaks"}), fault.Refused},
		"the commit is denied":                 {d, local, localPolicy(), deny(family.Denial{Commit: commit, Reason: "stolen"}), fault.Refused},
		"a key's digest is denied":             {byKey, keys, keyPolicy, deny(family.Denial{Digest: byKey.Digest, Reason: "it leaks"}), fault.Refused},
		"a key names no commit":                {byKey, keys, keyPolicy, deny(family.Denial{Commit: commit, Reason: "stolen"}), fault.Invalid},
		"an age is demanded":                   {d, local, localPolicy(), func(p *family.Policy) { p.MaxAge = 24 * time.Hour }, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			c.change(&c.policy)
			found, err := legacy.Read(t.Context(), c.subject, c.trust, c.policy)
			if got, _ := fault.KindOf(err); got != c.want || c.want == 0 && err != nil {
				t.Errorf("Read = %+v, %v, want kind %v", found, err, c.want)
			}
		})
	}
}

func deny(denials ...family.Denial) func(*family.Policy) {
	return func(p *family.Policy) { p.Deny = denials }
}

func many(t *testing.T, n int) []layer {
	layers := make([]layer, n)
	for i := range layers {
		layers[i] = signedBy(t, newKey(t), digest.FromString(fmt.Sprint(i)))
	}
	return layers
}

func TestARegistryThatDoesNotAnswerIsUnavailable(t *testing.T) {
	t.Parallel()
	nowhere := ref.Pinned{Repo: ref.Repo{Host: "127.0.0.1:1", Path: "acme/widget"}, Digest: digest.FromString("widget")}
	policy := family.Policy{Instance: family.Key, Signer: family.Signer{Key: publicPEM(t, newKey(t))}}
	_, err := legacy.Read(t.Context(), nowhere, parse(t, family.Key, nil), policy)
	if kind, _ := fault.KindOf(err); kind != fault.Unavailable {
		t.Errorf("Read = %v, want Unavailable", err)
	}
}
