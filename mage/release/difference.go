package release

import (
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
)

// Contents is what evidence says is in a cell, or in the payload, which has no platform. What is nil was
// not told: no package and nobody who looked for packages are different things.
type Contents struct {
	Packages        map[string]string // name → version
	Vulnerabilities map[string]bool   // "HIGH CVE-2026-1 in openssl"
	Unscannable     bool              // a payload: what is in it runs in the images
	Size            int64             // bytes of its layers, as they are transferred
}

// Difference is what changes for one image on one platform, or for the payload, as the evidence of both
// releases says.
type Difference struct {
	Member     string          `json:"member"`
	Platform   string          `json:"platform,omitempty"`
	Packages   []PackageChange `json:"packages"`          // sorted by name
	Introduced []string        `json:"introduced"`        // vulnerabilities that come
	Fixed      []string        `json:"fixed"`             // vulnerabilities that go
	Unknown    []string        `json:"unknown,omitempty"` // what the evidence does not tell, and why
	SizeBefore int64           `json:"sizeBefore"`        // bytes of all layers, as they are transferred; 0 when it was not there
	SizeAfter  int64           `json:"sizeAfter"`
}

// PackageChange is a package that comes (nothing before), goes (nothing after) or has another version.
type PackageChange struct {
	Name   string `json:"name"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

func (c PackageChange) String() string {
	switch {
	case c.Before == "":
		return "+" + strings.TrimSpace(c.Name+" "+c.After)
	case c.After == "":
		return "-" + c.Name + " " + c.Before
	}
	return c.Name + " " + c.Before + " → " + c.After
}

// Compare says how the cells of one release become those of another; cells that stay the same are left
// out.
func Compare(was, is map[evidence.Cell]Contents) []Difference {
	all := maps.Clone(was)
	maps.Copy(all, is)
	differences := []Difference{}
	for _, at := range slices.SortedFunc(maps.Keys(all), func(a, b evidence.Cell) int {
		return strings.Compare(a.String(), b.String())
	}) {
		if d := was[at].differs(is[at]); !d.Same() {
			d.Member, d.Platform = at.Image, at.Platform
			differences = append(differences, d)
		}
	}
	return differences
}

// Same reports whether nothing changes, and that this is known.
func (d Difference) Same() bool {
	return len(d.Packages)+len(d.Introduced)+len(d.Fixed)+len(d.Unknown) == 0 && d.SizeBefore == d.SizeAfter
}

// differs says how a cell's contents become another's.
func (c Contents) differs(is Contents) Difference {
	d := Difference{Packages: []PackageChange{}, Introduced: []string{}, Fixed: []string{}, SizeBefore: c.Size, SizeAfter: is.Size}
	if c.Packages == nil || is.Packages == nil {
		d.Unknown = append(d.Unknown, "packages: there is no SBOM of both")
	} else {
		d.Packages = changedPackages(c.Packages, is.Packages)
	}
	if c.Unscannable || is.Unscannable {
		return d
	}
	if c.Vulnerabilities == nil || is.Vulnerabilities == nil {
		d.Unknown = append(d.Unknown, "vulnerabilities: they were not scanned for in both")
		return d
	}
	d.Introduced = without(is.Vulnerabilities, c.Vulnerabilities)
	d.Fixed = without(c.Vulnerabilities, is.Vulnerabilities)
	return d
}

// without lists what one set has and another has not.
func without(has, lacks map[string]bool) []string {
	list := []string{}
	for _, v := range slices.Sorted(maps.Keys(has)) {
		if !lacks[v] {
			list = append(list, v)
		}
	}
	return list
}

func changedPackages(was, is map[string]string) []PackageChange {
	all := maps.Clone(was)
	maps.Copy(all, is)
	changes := []PackageChange{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		before, had := was[name]
		after, has := is[name]
		if had != has || before != after {
			changes = append(changes, PackageChange{name, before, after})
		}
	}
	return changes
}
