package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// authority is a private key and its certificate chain, own certificate first. A log has no chain.
type authority struct {
	key   crypto.Signer
	chain []*x509.Certificate
}

func (a authority) root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// keys are what a directory keeps. The keys of the two roots are thrown away once they have signed.
type keys struct {
	fulcio, tsa  authority // [intermediate, root] and [leaf, intermediate, root]
	ctlog, rekor authority
}

// created is when the directory was first used, the start of everything's validity.
func (k keys) created() time.Time { return k.fulcio.root().NotBefore }

// openKeys loads the keys of a directory and makes those that are not there yet.
func openKeys(dir string) (k keys, err error) {
	for _, one := range []struct {
		file   string
		into   *authority
		create func() (authority, error)
	}{
		{"fulcio.pem", &k.fulcio, newCertificateAuthority},
		{"tsa.pem", &k.tsa, newTimestampAuthority},
		{"ctlog.pem", &k.ctlog, newECDSA},
		{rekorKey, &k.rekor, newEd25519},
	} {
		if *one.into, err = openAuthority(filepath.Join(dir, one.file), one.create); err != nil {
			return keys{}, fmt.Errorf("opening key %s: %w", filepath.Join(dir, one.file), err)
		}
	}
	return k, nil
}

func openAuthority(path string, create func() (authority, error)) (authority, error) {
	stat, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		a, err := create()
		if err != nil {
			return authority{}, err
		}
		return a, a.save(path)
	}
	if err != nil {
		return authority{}, err
	}
	if stat.Mode().Perm()&0o077 != 0 {
		return authority{}, fmt.Errorf("others can read it (mode %v): remove the directory, its keys are spent", stat.Mode().Perm())
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return authority{}, err
	}
	return parseAuthority(content)
}

// save writes key and chain as one file, whole or not at all.
func (a authority) save(path string) error {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return replaceFile(path, append(content, encodeChain(a.chain...)...), 0o600)
}

func parseAuthority(content []byte) (authority, error) {
	block, rest := pem.Decode(content)
	if block == nil {
		return authority{}, errors.New("there is no PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return authority{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return authority{}, fmt.Errorf("a %T does not sign", key)
	}
	a := authority{key: signer}
	for block, rest = pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return authority{}, err
		}
		a.chain = append(a.chain, certificate)
	}
	return a, nil
}

func encodeChain(chain ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range chain {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return out.Bytes()
}

// replaceFile puts content at path in one step.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	draft := path + ".new"
	if err := os.WriteFile(draft, content, mode); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// newCertificateAuthority makes Fulcio's: a root and the intermediate that signs, as in public.
func newCertificateAuthority() (authority, error) {
	return newChain("Fulcio", x509.ExtKeyUsageCodeSigning)
}

// newTimestampAuthority makes root, intermediate and leaf; the leaf's only use is timestamping and
// critical, RFC 3161 section 2.3.
func newTimestampAuthority() (authority, error) {
	parent, err := newChain("Timestamp", x509.ExtKeyUsageTimeStamping)
	if err != nil {
		return authority{}, err
	}
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}) // id-kp-timeStamping
	if err != nil {
		return authority{}, err
	}
	leaf := template("Timestamp Authority")
	leaf.IsCA, leaf.KeyUsage = false, x509.KeyUsageDigitalSignature
	leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}}
	return parent.issue(leaf)
}

func newChain(name string, usage x509.ExtKeyUsage) (authority, error) {
	root := template(name + " Root")
	root.MaxPathLen = 1
	top, err := authority{}.issue(root)
	if err != nil {
		return authority{}, err
	}
	intermediate := template(name + " Intermediate")
	intermediate.MaxPathLenZero, intermediate.ExtKeyUsage = true, []x509.ExtKeyUsage{usage}
	return top.issue(intermediate)
}

// issue certifies a new key; an authority without a chain signs itself.
func (a authority) issue(t *x509.Certificate) (authority, error) {
	child, err := newECDSA()
	if err != nil {
		return authority{}, err
	}
	parent, signer := t, child.key
	if len(a.chain) > 0 {
		parent, signer = a.chain[0], a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, child.key.Public(), signer)
	if err != nil {
		return authority{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	child.chain = append([]*x509.Certificate{certificate}, a.chain...)
	return child, err
}

// template is a certificate authority's certificate, good for ten years from five minutes ago.
func template(name string) *x509.Certificate {
	now := time.Now().UTC().Truncate(time.Second)
	return &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"containai local"}, CommonName: name},
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func newECDSA() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return authority{key: key}, err
}

func newEd25519() (authority, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return authority{key: key}, err
}
