// Package sigstore signs statements and verifies them: keyless, logged, timestamped.
//
// A [Signer] gets one certificate for a job from the [Services] and signs any number of in-toto
// statements with it, each becoming a Sigstore bundle v0.3. A [Trust] verifies a bundle against what
// a consumer [Expect]s; [CheckProvenance] compares what a provenance says with what the certificate
// proves. [StartLocal] runs a whole Sigstore on this machine; nothing here can tell it from a public
// one but by the names in it.
//
// Invariant: a bundle leaves Sign only after Verify has accepted it with the signer's own identity,
// and nothing is ever signed, or accepted, without certificate promise, log entry and timestamp.
package sigstore

import (
	"context"
	"io"
	"os"

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

// Services says where signatures come from: the public ones, or those of a [Local].
type Services struct {
	TrustedRoot   string                                    // path of a trusted_root.json
	SigningConfig string                                    // path of a signing_config.json
	Token         func(ctx context.Context) (string, error) // an OIDC token with audience "sigstore"
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

// readConfig reads a small file whole.
func readConfig(path string) ([]byte, error) {
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
