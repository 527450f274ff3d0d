package family

import (
	"time"

	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/ref"
)

// Vulnerabilities is where the vulnerability database comes from. Without sources there is none, and
// every report says NOT SCANNED.
type Vulnerabilities struct {
	Mirror  string        // repository of the family's registry that inspect:mirror fills; asked first
	Sources []string      // host/path:tag or host/path@sha256:…, the first that gives one young enough
	MaxAge  time.Duration // an older database is refused
}

// defaultMaxAge is four times as long as Trivy's makers take to make another. It also holds where the family
// file names no source and CONTAINAI_VULNERABILITY_DB a database.
const defaultMaxAge = 24 * time.Hour

func (r *reader) vulnerabilities(n *yaml.Node, v *Vulnerabilities) {
	r.fields(n, fields{
		"mirror":  func(n *yaml.Node) { v.Mirror = r.text(n) },
		"sources": func(n *yaml.Node) { r.items(n, func(n *yaml.Node) { v.Sources = append(v.Sources, r.reference(n)) }) },
		"max-age": func(n *yaml.Node) { v.MaxAge = r.span(n) },
	}, "sources")
	if v.Mirror != "" && !nameGrammar.MatchString(v.Mirror) {
		r.complain(n.Line, "%q is not a repository name", v.Mirror)
	}
}

func (r *reader) reference(n *yaml.Node) string {
	s := r.text(n)
	if _, _, err := ref.Parse(s); err != nil {
		r.complain(n.Line, "%q is not a reference such as ghcr.io/aquasecurity/trivy-db:2: %v", s, err)
	}
	return s
}
