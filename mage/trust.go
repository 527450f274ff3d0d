package mage

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// signerPort starts the local Sigstore when something has to be signed, once per run.
type signerPort struct {
	*workshop
	plan   release.Plan
	mu     sync.Mutex
	signer *sigstore.Signer
}

// sigstoreEstimate is how long the helper takes to compile on a bare machine with two cores.
const sigstoreEstimate = 3 * time.Minute

func (p *signerPort) open(ctx context.Context) (pipeline.Signer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signer != nil {
		return p.signer, nil
	}
	if !p.client.Base().Loopback() {
		return nil, fault.New(fault.Environment, "signing for", p.client.Base().String(), "the local Sigstore signs for registries on this machine only").
			WithHint("other people cannot verify local signatures; releases to a public registry are signed by GitHub's OIDC identity, see docs/not-shown.md")
	}
	helper, err := tool.Program{
		Name: "sigstore-local", Version: "dev", Package: ".", Dir: filepath.Join(p.env.library, "mage", "sigstore-local"), Estimate: sigstoreEstimate,
	}.Build(ctx, p.programs(), func(line string) { p.progress.Note("attest", "", line) })
	if err != nil {
		return nil, err
	}
	src := p.plan.Source
	services, err := sigstore.StartLocal(ctx, helper, p.state.SigstoreDir(), sigstore.Claims{
		Repository: p.fam.Source, Ref: src.Ref, Commit: src.Commit, Workflow: filepath.Base(p.env.family), Dirty: src.Dirty,
	})
	if err != nil {
		return nil, err
	}
	p.onClose(services.Close)
	p.signer, err = sigstore.NewSigner(ctx, services.Services, sigstore.Options{Now: p.env.now})
	return p.signer, err
}

// trustPort verifies bundles against the local Sigstore's trusted root and its identity. Before
// anything was signed there is no root, and so nothing verifies.
type trustPort struct {
	*workshop
	mu    sync.Mutex
	trust *sigstore.Trust
}

// Verify checks who signed, what about, and, of a provenance, that it says what the certificate
// proves. The ref is not compared: locally any branch may be built, and the commit decides.
func (p *trustPort) Verify(bundle []byte, subject digest.Digest, commit string) (evidence.Statement, error) {
	trust, err := p.root()
	if err != nil {
		return evidence.Statement{}, err
	}
	verified, err := trust.Verify(bundle, subject, sigstore.Expect{
		Issuer: sigstore.LocalIssuer, BuilderID: sigstore.LocalBuilder, Repository: p.fam.Source, Commit: commit,
	})
	if err != nil {
		return evidence.Statement{}, err
	}
	if verified.Statement.PredicateType == evidence.Provenance {
		err = sigstore.CheckProvenance(verified.Statement, verified.Identity)
	}
	return verified.Statement, err
}

func (p *trustPort) root() (*sigstore.Trust, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trust != nil {
		return p.trust, nil
	}
	file := filepath.Join(p.state.SigstoreDir(), "trusted_root.json")
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: file, Kind: fault.Unverified, Err: err,
			Hint: "this state directory has no local Sigstore: it cannot verify what another one signed"}
	}
	p.trust, err = sigstore.ParseTrust(content)
	return p.trust, err
}
