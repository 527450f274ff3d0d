package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Difference is what changes for one image on one platform, or for the payload, as the evidence of both releases says.
type Difference struct {
	Member     string   `json:"member"`
	Platform   string   `json:"platform,omitempty"`
	Packages   []string `json:"packages"`          // "+name 1.2", "-name 1.2", "name 1.1 → 1.2"; sorted by name
	Introduced []string `json:"introduced"`        // vulnerabilities that come
	Fixed      []string `json:"fixed"`             // vulnerabilities that go
	Unknown    []string `json:"unknown,omitempty"` // what the evidence does not tell, and why
}

// compare says what is different in another release. It decides nothing, so what cannot be read is
// said and stops nobody.
func (p *Pipeline) compare(ctx context.Context, from, to digest.Digest) []Difference {
	var was, is map[cell]contents
	var group errgroup.Group
	group.Go(func() (err error) {
		was, err = p.contents(ctx, from)
		return err
	})
	group.Go(func() (err error) {
		is, err = p.contents(ctx, to)
		return err
	})
	if err := group.Wait(); err != nil {
		return []Difference{{Member: p.Family.Name, Unknown: []string{err.Error()}}}
	}
	all := maps.Clone(was)
	maps.Copy(all, is)
	differences := []Difference{}
	for _, at := range slices.SortedFunc(maps.Keys(all), func(a, b cell) int {
		return strings.Compare(a.member+" "+a.platform, b.member+" "+b.platform)
	}) {
		if d := was[at].differs(is[at]); !d.empty() {
			d.Member, d.Platform = at.member, at.platform
			differences = append(differences, d)
		}
	}
	return differences
}

func (d Difference) empty() bool {
	return len(d.Packages)+len(d.Introduced)+len(d.Fixed)+len(d.Unknown) == 0
}

// cell is a member on a platform.
type cell struct{ member, platform string }

// contents is what evidence says is in a cell: packages with their versions, vulnerabilities. What is
// nil was not told.
type contents struct {
	packages        map[string]string
	vulnerabilities map[string]bool
	unscannable     bool // a payload: what is in it runs in the images
}

// contents reads the evidence of a record's cells.
func (p *Pipeline) contents(ctx context.Context, record digest.Digest) (map[cell]contents, error) {
	pub, err := p.Load(ctx, record)
	if err != nil {
		return nil, err
	}
	claims := slices.DeleteFunc(release.Claims(p.Family, pub.Record, pub.Node), func(c release.Claim) bool {
		return c.Predicate != evidence.SBOM && c.Predicate != evidence.Scan
	})
	found, err := Collect(ctx, p.Registry, p.Verifier, claims, "", nil)
	if err != nil {
		return nil, err
	}
	all := map[cell]contents{}
	for _, c := range claims {
		at := cell{c.Member, c.Platform}
		in, st := all[at], found[KeyOf(c)]
		in.unscannable = c.Platform == ""
		switch c.Predicate {
		case evidence.SBOM:
			in.packages, err = readPackages(st.Predicate)
		case evidence.Scan:
			in.vulnerabilities, err = readVulnerabilities(st.Predicate)
		}
		if err != nil {
			return nil, fault.Wrap(err, fault.Forged, "reading evidence of", c.Member+" "+c.Platform)
		}
		all[at] = in
	}
	return all, nil
}

// readPackages lists a CycloneDX document's components but files; nil when there is no document.
func readPackages(predicate json.RawMessage) (map[string]string, error) {
	if len(predicate) == 0 {
		return nil, nil
	}
	var sbom struct {
		Components []struct{ Type, Name, Version string }
	}
	if err := json.Unmarshal(predicate, &sbom); err != nil {
		return nil, err
	}
	versions := map[string][]string{}
	for _, c := range sbom.Components {
		if c.Type != "file" && !slices.Contains(versions[c.Name], c.Version) {
			versions[c.Name] = append(versions[c.Name], c.Version)
		}
	}
	packages := map[string]string{}
	for name, all := range versions {
		slices.Sort(all)
		packages[name] = strings.Join(all, " and ")
	}
	return packages, nil
}

// readVulnerabilities lists what a scan found; nil when nobody looked.
func readVulnerabilities(predicate json.RawMessage) (map[string]bool, error) {
	if len(predicate) == 0 {
		return nil, nil
	}
	var report evidence.Report
	if err := json.Unmarshal(predicate, &report); err != nil || report.Vulnerabilities != evidence.Scanned {
		return nil, err
	}
	found := map[string]bool{}
	for _, f := range report.Findings {
		if f.Kind == evidence.Vulnerability {
			found[fmt.Sprintf("%s %s in %s", f.Severity, f.ID, f.Package)] = true
		}
	}
	return found, nil
}

// differs says how a cell's contents become another's.
func (was contents) differs(is contents) Difference {
	d := Difference{Packages: []string{}, Introduced: []string{}, Fixed: []string{}}
	if was.packages == nil || is.packages == nil {
		d.Unknown = append(d.Unknown, "packages: there is no SBOM of both")
	} else {
		d.Packages = changedPackages(was.packages, is.packages)
	}
	if was.unscannable || is.unscannable {
		return d
	}
	if was.vulnerabilities == nil || is.vulnerabilities == nil {
		d.Unknown = append(d.Unknown, "vulnerabilities: they were not scanned for in both")
		return d
	}
	for _, v := range slices.Sorted(maps.Keys(is.vulnerabilities)) {
		if !was.vulnerabilities[v] {
			d.Introduced = append(d.Introduced, v)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(was.vulnerabilities)) {
		if !is.vulnerabilities[v] {
			d.Fixed = append(d.Fixed, v)
		}
	}
	return d
}

func changedPackages(was, is map[string]string) []string {
	all := maps.Clone(was)
	maps.Copy(all, is)
	lines := []string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		before, had := was[name]
		after, has := is[name]
		switch {
		case !had:
			lines = append(lines, "+"+name+" "+after)
		case !has:
			lines = append(lines, "-"+name+" "+before)
		case before != after:
			lines = append(lines, name+" "+before+" → "+after)
		}
	}
	return lines
}
