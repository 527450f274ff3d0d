package main

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// writeTrust writes what verifiers need, the same bytes in every run of a directory, and what
// signers need, which names this run's ports.
func writeTrust(at ready, k keys) error {
	trusted, err := trustedRoot(k)
	if err != nil {
		return err
	}
	signing, err := signingConfig(at, k)
	if err != nil {
		return err
	}
	if err := writeJSON(at.TrustedRoot, trusted); err != nil {
		return err
	}
	return writeJSON(at.SigningConfig, signing)
}

// writeJSON writes one compact line: gh reads trusted roots line by line and wants the newline.
func writeJSON(path string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return replaceFile(path, append(content, '\n'), 0o644)
}

func trustedRoot(k keys) (*root.TrustedRoot, error) {
	certificates, err := certificateLog(k)
	if err != nil {
		return nil, err
	}
	entries, err := rekorLog(k)
	if err != nil {
		return nil, err
	}
	fulcio := &root.FulcioCertificateAuthority{
		Root: k.fulcio.root(), Intermediates: k.fulcio.chain[:1], ValidityPeriodStart: k.created(), URI: "https://fulcio.containai.internal",
	}
	tsa := &root.SigstoreTimestampingAuthority{
		Root: k.tsa.root(), Intermediates: k.tsa.chain[1:2], Leaf: k.tsa.chain[0], ValidityPeriodStart: k.created(), URI: "https://tsa.containai.internal",
	}
	return root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{fulcio}, certificates, []root.TimestampingAuthority{tsa}, entries)
}

// certificateLog's ID is the SHA-256 of its key, RFC 6962 section 3.2.
func certificateLog(k keys) (map[string]*root.TransparencyLog, error) {
	public, err := x509.MarshalPKIXPublicKey(k.ctlog.key.Public())
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(public)
	return logByID(id[:], "https://ctlog.containai.internal", k.ctlog, k), nil
}

// rekorLog's ID is the whole hash of origin and key, of which a C2SP signed note uses four bytes.
func rekorLog(k keys) (map[string]*root.TransparencyLog, error) {
	_, id, err := note.KeyHash(rekorOrigin, k.rekor.key.Public())
	if err != nil {
		return nil, err
	}
	return logByID(id, "https://"+rekorOrigin, k.rekor, k), nil
}

func logByID(id []byte, url string, a authority, k keys) map[string]*root.TransparencyLog {
	return map[string]*root.TransparencyLog{hex.EncodeToString(id): {
		BaseURL: url, ID: id, PublicKey: a.key.Public(), ValidityPeriodStart: k.created(),
		HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
	}}
}

func signingConfig(at ready, k keys) (*root.SigningConfig, error) {
	service := func(url string, version uint32) []root.Service {
		return []root.Service{{URL: url, MajorAPIVersion: version, ValidityPeriodStart: k.created(), Operator: "containai local"}}
	}
	any1 := root.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	return root.NewSigningConfig(root.SigningConfigMediaType02,
		service(at.Fulcio, 1), nil, service(at.Rekor, 2), any1, service(at.Timestamp, 1), any1)
}
