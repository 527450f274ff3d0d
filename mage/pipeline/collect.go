package pipeline

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Limits of reading evidence.
const (
	MaxBundle   = 32 << 20 // bytes of one bundle: an SBOM is inside
	maxSubjects = 8        // read at a time
)

// Found is the verified evidence of a release: for each claim, the statement that proves it.
type Found map[Key]evidence.Statement

// Key identifies a claim without its descriptor.
type Key struct {
	Subject   digest.Digest
	Predicate string
}

// KeyOf returns the key of a claim.
func KeyOf(c release.Claim) Key { return Key{c.Subject.Digest, c.Predicate} }

// Missing returns the claims that nothing proves.
func (f Found) Missing(claims []release.Claim) []release.Claim {
	var missing []release.Claim
	for _, c := range claims {
		if _, ok := f[KeyOf(c)]; !ok {
			missing = append(missing, c)
		}
	}
	return missing
}

// Collect reads the evidence of every claim's subject and verifies it. A bundle that does not
// verify proves nothing: it is left out and given to refused, which may be nil.
func Collect(ctx context.Context, r Registry, v Verifier, claims []release.Claim, commit string, refused func(release.Claim, error)) (Found, error) {
	found, mu := Found{}, sync.Mutex{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxSubjects)
	seen := map[digest.Digest]bool{}
	for _, c := range claims {
		if seen[c.Subject.Digest] {
			continue
		}
		seen[c.Subject.Digest] = true
		group.Go(func() error {
			return statements(ctx, r.Repository(c.Member), c.Subject, func(content []byte) {
				st, err := v.Verify(content, c.Subject.Digest, commit)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					found[Key{c.Subject.Digest, st.PredicateType}] = st
				} else if refused != nil {
					refused(c, err)
				}
			})
		})
	}
	return found, group.Wait()
}

// statements gives every bundle attached to a subject to read.
func statements(ctx context.Context, repo Repository, subject graph.Node, read func([]byte)) error {
	referrers, err := repo.Referrers(ctx, subject)
	if err != nil {
		return err
	}
	for _, ref := range referrers {
		if ref.ArtifactType != evidence.BundleType {
			continue
		}
		if len(ref.Layers) != 1 {
			return fault.New(fault.Forged, "reading evidence", ref.Manifest.Digest.String(), "it has %d layers, want 1", len(ref.Layers))
		}
		content, err := graph.Fetch(ctx, repo, ref.Layers[0], MaxBundle)
		if err != nil {
			return err
		}
		read(content)
	}
	return nil
}

// Reports returns the inspection reports that a release's scan attestations hold.
func (f Found) Reports(claims []release.Claim) ([]evidence.Report, error) {
	var reports []evidence.Report
	for _, c := range claims {
		st, ok := f[KeyOf(c)]
		if c.Predicate != evidence.Scan || !ok {
			continue
		}
		var report evidence.Report
		if err := json.Unmarshal(st.Predicate, &report); err != nil {
			return nil, fault.Wrap(err, fault.Forged, "reading scan attestation", c.Member+" "+c.Platform)
		}
		reports = append(reports, report)
	}
	return reports, nil
}
