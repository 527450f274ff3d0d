package family

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/package-url/packageurl-go"
	"gopkg.in/yaml.v3"
)

// VEX names an OpenVEX document whose statements are waivers. OpenVEX knows no end of a statement,
// so the family file says until when the document is believed.
type VEX struct {
	Path    string // relative to the family file
	Expires time.Time
}

func (r *reader) vex(n *yaml.Node) (x VEX) {
	r.fields(n, fields{
		"file": func(v *yaml.Node) {
			if x.Path = r.text(v); strings.HasPrefix(x.Path, "/") || strings.Contains(x.Path, "..") {
				r.complain(v.Line, "%q must be a path below the family file", x.Path)
			}
		},
		"expires": func(v *yaml.Node) { x.Expires = r.day(v) },
	}, "file", "expires")
	return x
}

// Documents returns the paths of the OpenVEX documents that gates name, sorted. Until each was given
// to [Family.ReadVEX], the gates accept less than the file says.
func (f *Family) Documents() []string {
	paths := map[string]bool{}
	for _, c := range f.Channels {
		for _, x := range c.Gate.VEX {
			paths[x.Path] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}

// ReadVEX adds the waivers of an OpenVEX document to every gate that names it. The error is
// [*Problems], as of [Parse].
func (f *Family) ReadVEX(path string, content []byte) error {
	r := &reader{file: path}
	doc, ok := r.document(content) // JSON is YAML, and so has lines
	if !ok {
		return r.err()
	}
	waivers := r.openVEX(doc)
	if err := r.err(); err != nil {
		return err
	}
	for name, c := range f.Channels {
		for _, x := range c.Gate.VEX {
			if x.Path != path {
				continue
			}
			for _, w := range waivers {
				w.Expires = x.Expires
				c.Gate.Waivers = append(slices.Clip(c.Gate.Waivers), w)
			}
		}
		f.Channels[name] = c
	}
	return nil
}

// openVEX reads the parts of a document that decide (OpenVEX specification v0.2.0,
// https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md); what is for people is passed over. Of what
// several statements say about one package, the latest stands.
func (r *reader) openVEX(n *yaml.Node) (waivers []Waiver) {
	const context = "https://openvex.dev/ns/v0.2"
	var issued time.Time
	var statements []statement
	r.some(n, fields{
		"@context": func(v *yaml.Node) {
			if s := r.text(v); s != context && !strings.HasPrefix(s, context+".") {
				r.complain(v.Line, "%q is not an OpenVEX document of version 0.2", s)
			}
		},
		"timestamp":  func(v *yaml.Node) { issued = r.moment(v) },
		"statements": func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { statements = append(statements, r.statement(v)) }) },
	}, "@context", "@id", "author", "timestamp", "version", "statements")
	for i := range statements {
		if statements[i].at.IsZero() {
			statements[i].at = issued
		}
	}
	slices.SortStableFunc(statements, func(a, b statement) int { return a.at.Compare(b.at) })
	for _, s := range statements {
		if s.accepts {
			waivers = append(waivers, s.waivers(r)...)
		} else {
			waivers = slices.DeleteFunc(waivers, s.revokes)
		}
	}
	return waivers
}

// statement is what a document says about a vulnerability.
type statement struct {
	line     int
	id       string
	aliases  []string
	at       time.Time // when it was made; zero is when the document was
	accepts  bool      // the products are not affected, or fixed; otherwise they are, or nobody knows yet
	reason   string
	products []product
}

func (r *reader) statement(n *yaml.Node) statement {
	s := statement{line: n.Line}
	var reasons [3]string
	into := func(i int) func(*yaml.Node) { return func(v *yaml.Node) { reasons[i] = r.text(v) } }
	r.some(n, fields{
		"vulnerability": func(v *yaml.Node) {
			r.some(v, fields{
				"name":    func(v *yaml.Node) { s.id = r.exactly(v) },
				"aliases": func(v *yaml.Node) { s.aliases = r.list(v) },
			}, "name")
		},
		"timestamp": func(v *yaml.Node) { s.at = r.moment(v) },
		"products":  func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { s.products = append(s.products, r.product(v)) }) },
		"status": func(v *yaml.Node) {
			status := r.oneOf(v, "not_affected", "affected", "fixed", "under_investigation")
			s.accepts = status == "not_affected" || status == "fixed"
		},
		"justification":    into(0),
		"impact_statement": into(1),
		"status_notes":     into(2),
	}, "vulnerability", "status")
	s.reason = strings.Join(slices.DeleteFunc(reasons[:], func(s string) bool { return s == "" }), ": ")
	return s
}

// moment reads when something was said.
func (r *reader) moment(v *yaml.Node) time.Time {
	at, err := time.Parse(time.RFC3339, r.text(v))
	if err != nil {
		r.complain(v.Line, "%q is no time such as 2026-11-01T00:00:00Z", v.Value)
	}
	return at
}

// waivers are one for every package that a statement accepts, and not a word beyond what it names: what is
// narrower than a waiver can be is refused.
func (s statement) waivers(r *reader) (waivers []Waiver) {
	if s.reason == "" {
		r.complain(s.line, "the statement on %s gives no reason: write a justification, an impact_statement or status_notes", s.id)
	}
	for _, p := range s.products {
		packages, image := p.parts, p.purl.Name
		if p.isImage() {
			p.checkImage(r)
		} else {
			packages, image = []product{p}, ""
		}
		for _, part := range packages {
			part.checkPackage(r)
			waivers = append(waivers, Waiver{
				ID: s.id, Image: image, Package: packageName(part.purl), Version: part.purl.Version, PURL: part.purl.ToString(),
				Reason: s.reason, Source: fmt.Sprintf("%s:%d", r.file, part.line),
			})
		}
	}
	if len(waivers) == 0 {
		r.complain(s.line, "the statement on %s is too broad: name the packages it is about as products or subcomponents", s.id)
	}
	return waivers
}

// revokes reports whether a statement that accepts nothing speaks of what a waiver accepts, of any version:
// rather one waiver too few.
func (s statement) revokes(w Waiver) bool {
	if s.id != w.ID && !slices.Contains(s.aliases, w.ID) {
		return false
	}
	about := func(p product) bool {
		if !p.isImage() {
			return p.sameName(w)
		}
		return (w.Image == "" || w.Image == p.purl.Name) &&
			(len(p.parts) == 0 || slices.ContainsFunc(p.parts, func(part product) bool { return part.sameName(w) }))
	}
	return len(s.products) == 0 || slices.ContainsFunc(s.products, about)
}

// product is what a statement is about: a package, or an image and packages in it.
type product struct {
	line   int
	purl   packageurl.PackageURL
	hashed bool // it is these bytes alone
	parts  []product
}

func (p product) isImage() bool { return p.purl.Type == packageurl.TypeOCI }

func (p product) sameName(w Waiver) bool { return packageName(p.purl) == w.Package }

func (r *reader) product(n *yaml.Node) product {
	p := product{line: n.Line}
	var id, named string
	r.some(n, fields{
		"@id": func(v *yaml.Node) { id = r.text(v) },
		"identifiers": func(v *yaml.Node) {
			r.some(v, fields{"purl": func(v *yaml.Node) { named = r.text(v) }})
		},
		"hashes":        func(v *yaml.Node) { p.hashed = len(v.Content) > 0 },
		"subcomponents": func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { p.parts = append(p.parts, r.product(v)) }) },
	})
	name := cmp.Or(named, id)
	purl, err := packageurl.FromString(name)
	if err != nil || strings.Contains(purl.Namespace+purl.Name+purl.Version, "*") {
		r.complain(n.Line, "%q is not a package URL such as pkg:deb/debian/openssl or pkg:oci/IMAGE", name)
	}
	p.purl = purl
	return p
}

// checkImage refuses an image that is named more narrowly than by its name, or is another repository's.
func (p product) checkImage(r *reader) {
	switch {
	case p.purl.Version != "" || p.hashed:
		r.complain(p.line, "%s names a digest, and a waiver is of an image whatever its digest: leave it out", p.purl.ToString())
	case p.purl.Subpath != "" || p.purl.Namespace != "":
		r.complain(p.line, "%s is no image: write pkg:oci/IMAGE", p.purl.ToString())
	}
	for _, q := range p.purl.Qualifiers {
		r.complain(p.line, "%s narrows the image by %s, which a waiver cannot: write pkg:oci/%s", p.purl.ToString(), q.Key, p.purl.Name)
	}
}

// checkPackage refuses what is no package, or is named by what no finding tells.
func (p product) checkPackage(r *reader) {
	switch {
	case p.isImage():
		r.complain(p.line, "%s is an image inside of something: name the package", p.purl.ToString())
	case len(p.parts) > 0:
		r.complain(p.line, "%s has subcomponents, and only an image may: name the packages as products", p.purl.ToString())
	case p.hashed || p.purl.Subpath != "":
		r.complain(p.line, "%s is narrowed by a hash or a path inside of it, which a waiver cannot: leave it out", p.purl.ToString())
	}
}

// packageName is what scanners call the package of a URL.
func packageName(p packageurl.PackageURL) string {
	switch {
	case p.Namespace == "" || p.Type == packageurl.TypeDebian || p.Type == packageurl.TypeApk || p.Type == packageurl.TypeRPM:
		return p.Name
	case p.Type == packageurl.TypeMaven:
		return p.Namespace + ":" + p.Name
	}
	return p.Namespace + "/" + p.Name
}

// Names reports whether a package is what the waiver's package URL names: of its type, namespace and name,
// of its version if it has one, and with every qualifier that it has. Without a package URL it is any. What
// the URL does not say of a version, such as an epoch, version does.
func (w Waiver) Names(found, version string) bool {
	if w.PURL == "" {
		return true
	}
	want, err := packageurl.FromString(w.PURL)
	is, unread := packageurl.FromString(found)
	if err != nil || unread != nil || want.Type != is.Type || want.Namespace != is.Namespace || want.Name != is.Name {
		return false
	}
	has := is.Qualifiers.Map()
	for _, q := range want.Qualifiers {
		if has[q.Key] != q.Value {
			return false
		}
	}
	return want.Version == "" || want.Version == is.Version || want.Version == version
}
