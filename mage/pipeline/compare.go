package pipeline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// compare says what is different in another release. It decides nothing, so what cannot be read is
// said and stops nobody.
func (p *Pipeline) compare(ctx context.Context, from, to digest.Digest) []release.Difference {
	differences, err := p.Compare(ctx, from, to)
	if err != nil {
		return []release.Difference{{Member: p.Family.Name, Unknown: []string{err.Error()}}}
	}
	return differences
}

// Compare says how one published record becomes another, by the verified evidence of both.
func (p *Pipeline) Compare(ctx context.Context, from, to digest.Digest) ([]release.Difference, error) {
	var was, is contents
	var group errgroup.Group
	group.Go(func() (err error) {
		was, err = p.published(ctx, from)
		return err
	})
	group.Go(func() (err error) {
		is, err = p.published(ctx, to)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return release.Compare(was.cells, is.cells), nil
}

// CompareBuilt says how a published record becomes what was built and inspected here, which need not be
// published. An image that was kept has the packages it had.
func (p *Pipeline) CompareBuilt(ctx context.Context, from digest.Digest, b release.Built, reports []evidence.Report) ([]release.Difference, error) {
	was, err := p.published(ctx, from)
	if err != nil {
		return nil, err
	}
	is, err := p.built(ctx, b, reports)
	if err != nil {
		return nil, err
	}
	for at, c := range is.cells {
		if c.Packages == nil && is.digests[at] == was.digests[at] {
			c.Packages = was.cells[at].Packages
			is.cells[at] = c
		}
	}
	return release.Compare(was.cells, is.cells), nil
}

// contents is what is known of a release's cells, and of its payload.
type contents struct {
	cells   map[evidence.Cell]release.Contents
	digests map[evidence.Cell]digest.Digest
}

func newContents() contents {
	return contents{map[evidence.Cell]release.Contents{}, map[evidence.Cell]digest.Digest{}}
}

// published reads the evidence of a record's cells.
func (p *Pipeline) published(ctx context.Context, record digest.Digest) (contents, error) {
	pub, err := p.Load(ctx, record)
	if err != nil {
		return contents{}, err
	}
	claims := slices.DeleteFunc(release.Claims(p.Family, pub.Record, pub.Node), func(c release.Claim) bool {
		return c.Predicate != evidence.SBOM && c.Predicate != evidence.Scan
	})
	var found Found
	sizes := make([]int64, len(claims))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		found, err = Collect(ctx, p.Registry, p.Verifier, claims, "", nil)
		return err
	})
	for i, c := range claims {
		if c.Predicate == evidence.SBOM {
			group.Go(func() (err error) {
				sizes[i], err = p.size(ctx, c.Member, c.Subject)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return contents{}, err
	}
	all := newContents()
	for i, c := range claims {
		at := evidence.Cell{Image: c.Member, Platform: c.Platform}
		in, st := all.cells[at], found[KeyOf(c)]
		in.Unscannable = c.Platform == ""
		switch c.Predicate {
		case evidence.SBOM:
			in.Size = sizes[i]
			in.Packages, err = readPackages(st.Predicate)
		case evidence.Scan:
			in.Vulnerabilities, err = readScan(st.Predicate)
		}
		if err != nil {
			return contents{}, fault.Wrap(err, fault.Forged, "reading evidence of", at.String())
		}
		all.cells[at], all.digests[at] = in, c.Subject.Digest
	}
	return all, nil
}

// built is what the layout and the inspection's files say.
func (p *Pipeline) built(ctx context.Context, b release.Built, reports []evidence.Report) (contents, error) {
	subjects := map[evidence.Cell]graph.Node{}
	for _, cell := range b.Record.Cells() {
		subjects[cell], _ = b.Record.Digest(cell)
	}
	payload := evidence.Cell{Image: p.Family.ArtifactOf(family.Payload)}
	if node, ok := b.Record.Artifacts[payload.Image]; ok {
		subjects[payload] = node
	}
	all := newContents()
	for at, node := range subjects {
		in := release.Contents{Unscannable: at.Platform == ""}
		var err error
		if in.Size, err = p.size(ctx, at.Image, node); err != nil {
			return contents{}, err
		}
		if sbom, err := p.Inspect.SBOM(ctx, b, at.Image, at.Platform); err == nil { // a kept image has none here
			if in.Packages, err = readPackages(sbom); err != nil {
				return contents{}, fault.Wrap(err, fault.Forged, "reading SBOM of", at.String())
			}
		}
		for _, r := range reports {
			if r.Cell == at {
				in.Vulnerabilities = vulnerabilities(r)
			}
		}
		all.cells[at], all.digests[at] = in, node.Digest
	}
	return all, nil
}

// size sums a manifest's layers, as they are transferred.
func (p *Pipeline) size(ctx context.Context, member string, n graph.Node) (int64, error) {
	m, err := graph.Manifest(ctx, p.Nearest(ctx, member, n), n)
	var sum int64
	for _, layer := range m.Layers {
		sum += layer.Size
	}
	return sum, err
}

// Nearest is where a member's manifest can be read: the layout, if there is one that has it, or else the registry.
func (p *Pipeline) Nearest(ctx context.Context, member string, n graph.Node) graph.Store {
	if p.Layout != nil {
		if there, err := p.Layout.Exists(ctx, n); err == nil && there {
			return p.Layout
		}
	}
	return p.Registry.Repository(member)
}

// readPackages lists a CycloneDX document's components but files; nil when there is no document.
func readPackages(document []byte) (map[string]string, error) {
	if len(document) == 0 {
		return nil, nil
	}
	var sbom struct {
		Components []struct{ Type, Name, Version string }
	}
	if err := json.Unmarshal(document, &sbom); err != nil {
		return nil, err
	}
	versions := map[string][]string{}
	for _, c := range sbom.Components {
		if c.Type != "file" && !slices.Contains(versions[c.Name], c.Version) {
			versions[c.Name] = append(versions[c.Name], cmp.Or(c.Version, "without version"))
		}
	}
	packages := map[string]string{}
	for name, all := range versions {
		slices.Sort(all)
		packages[name] = strings.Join(slices.Compact(all), " and ")
	}
	return packages, nil
}

// readScan lists what an attested scan found; nil when nobody looked.
func readScan(predicate json.RawMessage) (map[string]bool, error) {
	if len(predicate) == 0 {
		return nil, nil
	}
	var report evidence.Report
	err := json.Unmarshal(predicate, &report)
	return vulnerabilities(report), err
}

func vulnerabilities(r evidence.Report) map[string]bool {
	if r.Vulnerabilities != evidence.Scanned {
		return nil
	}
	found := map[string]bool{}
	for _, f := range r.Findings {
		if f.Kind == evidence.Vulnerability {
			found[fmt.Sprintf("%s %s in %s", f.Severity, f.ID, f.Package)] = true
		}
	}
	return found
}
