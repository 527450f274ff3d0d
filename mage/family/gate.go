package family

import (
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Gate is what a channel refuses.
type Gate struct {
	Severities []string // vulnerabilities of these severities are refused
	Unfixed    bool     // also those without a fixed version
	Unscanned  bool     // true allows cells whose vulnerabilities were NOT SCANNED
	LocalBase  bool     // true allows the mirror's root file system instead of the pinned image
	Cache      bool     // true allows builds that can take from a cache that other machines fill
	Unused     bool     // true allows waivers that waive nothing; they are reported
	Waivers    []Waiver
	VEX        []VEX
}

// Waiver accepts one finding until a day. It is never broader than one vulnerability of one
// package, or one rule for secrets in one file.
type Waiver struct {
	ID      string    // of a vulnerability, or the rule that found a secret
	Image   string    // where it was found; empty: anywhere in the family
	Package string    // exactly; of a vulnerability
	Version string    // of the package, exactly; empty: any
	PURL    string    // the package URL of an OpenVEX statement, which says what Package and Version do not; may be empty
	Path    string    // exactly, as the finding says it; a secret's must be named
	Reason  string    // for people
	Expires time.Time // the first moment at which it accepts nothing any more
	Source  string    // file:line where it stands
}

// vulnerabilityID is what databases call vulnerabilities; what it does not match is a rule for secrets.
var vulnerabilityID = lazyregexp.New(`^[A-Z][A-Z0-9]*-[A-Za-z0-9._:-]+$`)

// OfSecret reports whether the waiver accepts a secret.
func (w Waiver) OfSecret() bool { return !vulnerabilityID.MatchString(w.ID) }

// String names a waiver as its writer would look for it.
func (w Waiver) String() string {
	where := w.Package
	if w.Path != "" {
		where = strings.TrimPrefix(where+" "+w.Path, " ")
	}
	if w.Image != "" {
		where += " of " + w.Image
	}
	return w.Source + ": waiver of " + w.ID + " in " + where
}

func (r *reader) gate(n *yaml.Node) (g Gate) {
	g.Unused = r.path[len(r.path)-2] != "prod" // channels.<name>.gate
	allowed := func(v *yaml.Node) bool { return r.oneOf(v, "allow", "refuse") == "allow" }
	r.fields(n, fields{
		"severities": func(v *yaml.Node) {
			r.items(v, func(v *yaml.Node) {
				g.Severities = append(g.Severities, r.oneOf(v, "UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"))
			})
		},
		"unfixed":        func(v *yaml.Node) { g.Unfixed = !allowed(v) },
		"unscanned":      func(v *yaml.Node) { g.Unscanned = allowed(v) },
		"local-base":     func(v *yaml.Node) { g.LocalBase = allowed(v) },
		"cache":          func(v *yaml.Node) { g.Cache = allowed(v) },
		"unused-waivers": func(v *yaml.Node) { g.Unused = allowed(v) },
		"waivers":        func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { g.Waivers = append(g.Waivers, r.waiver(v)) }) },
		"vex":            func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { g.VEX = append(g.VEX, r.vex(v)) }) },
	}, "severities", "unscanned", "local-base")
	return g
}

func (r *reader) waiver(n *yaml.Node) Waiver {
	w := Waiver{Source: r.place(n)}
	r.fields(n, fields{
		"id":      func(v *yaml.Node) { w.ID = r.exactly(v) },
		"image":   func(v *yaml.Node) { w.Image = r.exactly(v) },
		"package": func(v *yaml.Node) { w.Package = r.exactly(v) },
		"version": func(v *yaml.Node) { w.Version = r.exactly(v) },
		"path":    func(v *yaml.Node) { w.Path = r.exactly(v) },
		"reason":  func(v *yaml.Node) { w.Reason = r.text(v) },
		"expires": func(v *yaml.Node) { w.Expires = r.day(v) },
	}, "id", "reason", "expires")
	switch {
	case w.ID == "" || n.Kind != yaml.MappingNode:
	case w.OfSecret() && w.Path == "":
		r.complain(n.Line, "the waiver of %q is too broad: it is a rule for secrets, so name the path of the one file that it is wrong about", w.ID)
	case w.OfSecret() && w.Package != "":
		r.complain(n.Line, "%q is a rule for secrets, which are in files, not in package %q", w.ID, w.Package)
	case w.Package == "" && w.Path == "":
		r.complain(n.Line, "the waiver of %s is too broad: name the package, or the path, that it is about", w.ID)
	}
	return w
}

// exactly reads a text that is compared as it stands.
func (r *reader) exactly(v *yaml.Node) string {
	s := r.text(v)
	if strings.ContainsAny(s, "*?") {
		r.complain(v.Line, "%q is too broad: waivers are compared exactly, without wildcards", s)
	}
	return s
}
