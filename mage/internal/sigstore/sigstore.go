// Package sigstore signs statements and verifies them: keyless, logged, timestamped.
//
// A [Signer] gets one certificate for a job from the [Services] and signs any number of in-toto
// statements with it, each becoming a Sigstore bundle v0.3. A [KeySigner] signs the same statements
// with a key pair and no services. A [Trust] verifies a bundle against what a consumer [Expect]s;
// [CheckProvenance] compares what a provenance says with what the certificate proves. [StartLocal]
// runs a whole Sigstore on this machine; nothing here can tell it from a public one but by the names
// in it.
//
// Every check stands in a list, one line each, so that a test can take each of them away and see
// that something wrong is then accepted. Invariant: a bundle leaves Sign only after Verify has
// accepted it with the signer's own identity, and nothing is accepted without everything that the
// policy's instance demands.
package sigstore

import (
	"context"
	"io"
	"os"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// The issuers whose identities we understand. The local names are the same on every machine and
// belong to nobody in public (.internal is reserved for private use): what tells two machines apart
// is the trusted root.
const (
	GitHubIssuer = "https://token.actions.githubusercontent.com"
	LocalIssuer  = "https://containai.internal/oidc"
	LocalBuilder = "https://containai.internal/builders/local/v1" // builder id and certificate subject
)

// Services says where signatures come from. Without paths they are the public ones, as this
// version of the library knows them; a [Local] has its own.
type Services struct {
	Instance      family.Instance                           // empty is public
	TrustedRoot   string                                    // path of a trusted_root.json
	SigningConfig string                                    // path of a signing_config.json
	Token         func(ctx context.Context) (string, error) // an OIDC token with audience "sigstore"
}

func (s Services) instance() family.Instance {
	if s.Instance == "" {
		return family.Public
	}
	return s.Instance
}

// signingConfig is the file's content, or one that is built in.
func (s Services) signingConfig() ([]byte, error) {
	switch {
	case s.SigningConfig != "":
		return readConfig(s.SigningConfig)
	case s.instance() == family.Public:
		return publicServices, nil
	case s.instance() == family.GitHub:
		return gitHubServices, nil
	default:
		return nil, fault.New(fault.Environment, "signing with instance", string(s.instance()), "its signing config is missing").
			WithHint("give its signing_config.json: it says where to sign")
	}
}

// Reason is why a bundle or its provenance is refused; errors.Is finds it beside fault.Forged.
type Reason string

// The reasons.
const (
	Malformed       Reason = "it is not a Sigstore bundle v0.3 of one in-toto statement about one subject"
	Unlogged        Reason = "no transparency log entry comes with it"
	Undated         Reason = "no timestamp comes with it"
	Untrusted       Reason = "it does not verify under the trusted root"
	WrongIdentity   Reason = "somebody else signed it"
	WrongSubject    Reason = "it speaks about other content"
	WrongProvenance Reason = "the provenance contradicts its certificate"
)

func (r Reason) Error() string { return string(r) }

// Limits of what is read from outside, in bytes. An SBOM of 5,000 components is about 4 MiB.
const (
	maxBundle = 48 << 20 // a statement of 32 MiB in base64, and its proofs
	maxConfig = 1 << 20  // trusted root, signing config
	maxToken  = 64 << 10
)

// readConfig reads a small file whole; no path is no content.
func readConfig(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", path)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", path)
	}
	if len(content) > maxConfig {
		return nil, fault.New(fault.Invalid, "reading", path, "it is larger than %d bytes", maxConfig)
	}
	return content, nil
}
