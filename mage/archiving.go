package mage

import (
	"context"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/attestations"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// openArchive is what GitHub keeps of a family's evidence beside the registry; nil where it keeps none,
// and where this is no job that could ask. It is for what a workflow signs as GitHub's, releases to
// GitHub's registry, and what the public may read: of a private repository GitHub keeps what its own
// Sigstore signed.
func (w *workshop) openArchive(channel string) (pipeline.Archive, error) {
	a, policy := readAuthorities(), w.fam.Policy(channel)
	if !w.env.job.Running() || !w.onGitHub() || w.env.token == "" ||
		policy.Signer.Issuer != sigstore.GitHubIssuer || policy.Instance == family.Key || a.local(policy, w.loopback()) {
		return nil, nil
	}
	event, err := w.env.job.ReadEvent()
	if err != nil || event.Private && policy.Instance == family.Public {
		return nil, err
	}
	archive, err := attestations.NewArchive(w.env.github, policy.Signer.Repository, w.env.token, attestations.Options{})
	if err != nil {
		return nil, err
	}
	return archive, nil
}

// archiveOf is the archive of a release, for the job that signs it: who signs has the right to store.
// A mover has none, and needs none.
func (w *workshop) archiveOf(ctx context.Context, x wish, src release.Source) (pipeline.Archive, error) {
	if x.until != pipeline.UntilAttest && x.until != pipeline.UntilPromote {
		return nil, nil
	}
	archive, err := w.openArchive(x.channel)
	if err != nil || archive == nil {
		return nil, err
	}
	policy := w.fam.Policy(x.channel)
	job, err := w.bearer(ctx, policy)
	if err != nil || job.Is(sigstore.Expect{Signer: policy.Signer, Commit: src.Commit}) != nil {
		return nil, err
	}
	return archive, nil
}
