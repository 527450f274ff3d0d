package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
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
	MaxBundle   = 48 << 20  // bytes of one bundle: an SBOM is inside, in base64
	MaxAttached = 64        // bundles of one subject, and SBOMs; a release attaches four and one
	MaxEvidence = 128 << 20 // bytes of all that hangs on one subject
	maxSubjects = 24        // read at a time
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

// Collect reads the evidence of every claim's subject and verifies it: signed by a job of the commit
// that the claim names, by who may release to the channel, or to any without one. A bundle that does
// not verify proves nothing: it is left out and given to refused, which may be nil.
func Collect(ctx context.Context, r Registry, v Verifier, claims []release.Claim, channel string, refused func(release.Claim, error)) (Found, error) {
	found, mu := Found{}, sync.Mutex{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxSubjects)
	about := map[digest.Digest]signers{}
	for _, c := range claims {
		if about[c.Subject.Digest] == nil {
			about[c.Subject.Digest] = signers{}
		}
		about[c.Subject.Digest][c.Predicate] = c
	}
	seen := map[digest.Digest]bool{}
	for _, c := range claims {
		if seen[c.Subject.Digest] {
			continue
		}
		seen[c.Subject.Digest] = true
		group.Go(func() error {
			attached, err := Attachments(ctx, r.Repository(c.Member), c.Subject, evidence.BundleType)
			if err != nil {
				return err
			}
			for _, err := range attached.Unread {
				if refused != nil {
					mu.Lock()
					refused(c, err)
					mu.Unlock()
				}
			}
			for _, content := range attached.Bundles {
				st, err := about[c.Subject.Digest].verify(v, content, c.Subject.Digest, channel)
				mu.Lock()
				if key := (Key{c.Subject.Digest, st.PredicateType}); err == nil {
					found[key] = newest(found[key], st)
				} else if refused != nil {
					refused(c, err)
				}
				mu.Unlock()
			}
			return nil
		})
	}
	return found, group.Wait()
}

// newest is the one of two statements of one kind that stands: of scans, the one by the newer database.
func newest(a, b evidence.Statement) evidence.Statement {
	var was, is evidence.Report
	if a.PredicateType == evidence.Scan && json.Unmarshal(a.Predicate, &was) == nil && json.Unmarshal(b.Predicate, &is) == nil && is.Database < was.Database {
		return a
	}
	return b
}

// without is what is proved apart from scans by an older database than that of reports made just now: a
// rebuild may give the same bytes, in which more is known to be wrong by then.
func (f Found) without(claims []release.Claim, reports []evidence.Report) Found {
	f = maps.Clone(f)
	for _, c := range claims {
		var was evidence.Report
		st, ok := f[KeyOf(c)]
		if !ok || c.Predicate != evidence.Scan || json.Unmarshal(st.Predicate, &was) != nil {
			continue
		}
		if slices.ContainsFunc(reports, func(is evidence.Report) bool { return is.Digest == was.Digest && was.Database < is.Database }) {
			delete(f, KeyOf(c))
		}
	}
	return f
}

// signers are the claims about one subject, by predicate.
type signers map[string]release.Claim

// verify accepts a bundle that a job of one of the commits signed, if the statement is that commit's to
// make and a provenance names what the subject was made from. What nobody claims any of them may say.
func (s signers) verify(v Verifier, content []byte, subject digest.Digest, channel string) (evidence.Statement, error) {
	var commits []string
	for _, c := range s {
		commits = append(commits, c.Commit)
	}
	var refused error
	for _, commit := range slices.Compact(slices.Sorted(slices.Values(commits))) {
		st, err := v.Verify(content, subject, commit, channel)
		if claim, claimed := s[st.PredicateType]; err == nil && claimed {
			err = fits(claim, commit, st)
		}
		if err == nil {
			return st, nil
		}
		refused = err
	}
	return evidence.Statement{}, refused
}

// fits compares what was signed with the claim that it is to prove.
func fits(c release.Claim, commit string, st evidence.Statement) error {
	if c.Commit != commit {
		return fault.New(fault.Forged, "verifying evidence of", c.Member, "%s is signed by a job of %s, want %s", c.Predicate, commit, c.Commit)
	}
	if len(c.Dependencies) == 0 {
		return nil
	}
	var p evidence.SLSA
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		return fault.Wrap(err, fault.Forged, "reading provenance of", c.Member)
	}
	for _, want := range c.Dependencies {
		if !p.BuildDefinition.Names(want) {
			return fault.New(fault.Forged, "verifying evidence of", c.Member, "its provenance does not name %s", want.URI)
		}
	}
	return nil
}

// Attached is what hangs on a subject and speaks about it, unverified.
type Attached struct {
	Bundles   [][]byte // Sigstore bundles
	Documents [][]byte // CycloneDX documents
	Unread    []error  // why something that hangs there is none of them; it proves nothing
}

// Attachments reads the evidence of the wanted artifact types that hangs on a subject. Beyond the
// limits everything is refused, so that a flood can neither hide evidence nor keep a reader busy; one
// attachment that is not what it should be, or whose content is gone, is left out, as anybody may
// attach something: what it might have proved is missing, unless something else proves it.
func Attachments(ctx context.Context, repo Repository, subject graph.Node, wanted ...string) (Attached, error) {
	var a Attached
	referrers, err := repo.Referrers(ctx, subject)
	if err != nil {
		return a, err
	}
	referrers = slices.DeleteFunc(slices.Clone(referrers), func(r Referrer) bool { return !slices.Contains(wanted, r.ArtifactType) })
	if err := checkFlood(subject, referrers); err != nil {
		return a, err
	}
	for _, r := range referrers {
		content, err := attachedContent(ctx, repo, r)
		switch {
		case errors.Is(err, fault.Forged), errors.Is(err, fault.Refused), errors.Is(err, fault.Conflict), errors.Is(err, fault.Unverified):
			a.Unread = append(a.Unread, err)
		case err != nil:
			return a, err
		case r.ArtifactType == evidence.SBOMType:
			a.Documents = append(a.Documents, content)
		default:
			a.Bundles = append(a.Bundles, content)
		}
	}
	return a, nil
}

// checkFlood refuses more attachments of one type, or more bytes in all, than a reader takes.
func checkFlood(subject graph.Node, referrers []Referrer) error {
	count, size := map[string]int{}, int64(0)
	for _, r := range referrers {
		count[r.ArtifactType]++
		if len(r.Layers) == 1 && r.Layers[0].Size <= MaxBundle { // others are not fetched
			size += max(r.Layers[0].Size, 0)
		}
		if count[r.ArtifactType] > MaxAttached || size > MaxEvidence {
			return fault.New(fault.Refused, "reading evidence of", subject.Digest.String(), "more than %d of %s, or %d bytes in all, hang on it", MaxAttached, r.ArtifactType, MaxEvidence)
		}
	}
	return nil
}

func attachedContent(ctx context.Context, repo Repository, r Referrer) ([]byte, error) {
	if len(r.Layers) != 1 {
		return nil, fault.New(fault.Forged, "reading evidence", r.Manifest.Digest.String(), "it has %d layers, want 1", len(r.Layers))
	}
	return graph.Fetch(ctx, repo, r.Layers[0], MaxBundle)
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
