package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/attestations"
)

// Source is a place beside the registry that keeps bundles about a digest. Nothing in it is believed.
type Source interface {
	// Bundles returns what is kept about a digest; nothing is no error.
	Bundles(ctx context.Context, subject digest.Digest) ([][]byte, error)
}

// Attestations is what GitHub keeps about a repository's digests, by GitHub's own API (the public one
// is https://api.github.com) and the URL of the repository. It needs no login for public ones.
func Attestations(api, repository string) (Source, error) {
	c, err := attestations.New(api, repository)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// defaultPatience is ample for a family's evidence over a slow line.
const defaultPatience = 10 * time.Minute

// patiently ends what reads longer than the verifier waits, however slowly something still arrives.
func (v *Verifier) patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, cmp.Or(v.Patience, defaultPatience))
}

// arrived tells a limit that was met while reading from a policy that says no: what was asked for did
// not arrive. Every refusal by policy has a reason. Who reads plans nothing, so that what is named and
// not there is no conflict with a plan: there is nothing to check.
func arrived(err error) error {
	if errors.Is(err, fault.Conflict) {
		return &fault.Error{Op: "reading", Kind: fault.Unverified, Err: fmt.Errorf("%w: %w", Missing, err)}
	}
	late := errors.Is(err, context.DeadlineExceeded)
	tooMuch := errors.Is(err, fault.Refused) && reasonOf(err) == ""
	if !late && !tooMuch {
		return err
	}
	return &fault.Error{Op: "reading", Kind: fault.Unavailable, Err: fmt.Errorf("%w: %w", Endless, err)}
}
