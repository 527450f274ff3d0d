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
// https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md); what is for people is passed over.
func (r *reader) openVEX(n *yaml.Node) (waivers []Waiver) {
	const context = "https://openvex.dev/ns/v0.2"
	r.some(n, fields{
		"@context": func(v *yaml.Node) {
			if s := r.text(v); s != context && !strings.HasPrefix(s, context+".") {
				r.complain(v.Line, "%q is not an OpenVEX document of version 0.2", s)
			}
		},
		"statements": func(v *yaml.Node) {
			r.items(v, func(v *yaml.Node) { waivers = append(waivers, r.statement(v)...) })
		},
	}, "@context", "@id", "author", "timestamp", "version", "statements")
	return waivers
}

// statement gives a waiver for every package that it says is not affected, or fixed. A statement
// that a package is affected, or that nobody knows yet, accepts nothing.
func (r *reader) statement(n *yaml.Node) []Waiver {
	var id, status, justification, impact, notes string
	var products []product
	into := func(s *string) func(*yaml.Node) { return func(v *yaml.Node) { *s = r.text(v) } }
	r.some(n, fields{
		"vulnerability": func(v *yaml.Node) { r.some(v, fields{"name": func(v *yaml.Node) { id = r.exactly(v) }}, "name") },
		"products":      func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { products = append(products, r.product(v)) }) },
		"status": func(v *yaml.Node) {
			status = r.oneOf(v, "not_affected", "affected", "fixed", "under_investigation")
		},
		"justification":    into(&justification),
		"impact_statement": into(&impact),
		"status_notes":     into(&notes),
	}, "vulnerability", "status")
	if status != "not_affected" && status != "fixed" {
		return nil
	}
	reason := strings.Join(slices.DeleteFunc([]string{justification, impact, notes}, func(s string) bool { return s == "" }), ": ")
	if reason == "" {
		r.complain(n.Line, "the statement on %s gives no reason: write a justification, an impact_statement or status_notes", id)
	}
	var waivers []Waiver
	for _, p := range products {
		waivers = append(waivers, p.waivers(r, id, reason)...)
	}
	if len(waivers) == 0 {
		r.complain(n.Line, "the statement on %s is too broad: name the packages it is about as products or subcomponents", id)
	}
	return waivers
}

// product is what a statement is about: a package, or an image and packages in it.
type product struct {
	line  int
	purl  packageurl.PackageURL
	parts []product
}

func (r *reader) product(n *yaml.Node) product {
	p := product{line: n.Line}
	var id, named string
	r.some(n, fields{
		"@id": func(v *yaml.Node) { id = r.text(v) },
		"identifiers": func(v *yaml.Node) {
			r.some(v, fields{"purl": func(v *yaml.Node) { named = r.text(v) }})
		},
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

func (p product) waivers(r *reader, id, reason string) (waivers []Waiver) {
	packages, image := p.parts, p.purl.Name
	if p.purl.Type != packageurl.TypeOCI {
		packages, image = []product{p}, ""
	}
	for _, part := range packages {
		waivers = append(waivers, Waiver{
			ID: id, Image: image, Package: packageName(part.purl), Version: part.purl.Version, Reason: reason,
			Source: fmt.Sprintf("%s:%d", r.file, part.line),
		})
	}
	return waivers
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
