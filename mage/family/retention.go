package family

import (
	"path"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Keep is how much of a channel's past can be rolled back to. The zero value is a channel whose
// file does not say: nothing of its past is given up.
type Keep struct {
	All      bool
	Releases int           // at least so many, the newest first
	Within   time.Duration // and everything that was served within this time; zero: releases alone count
}

// Stated reports whether the family file says anything.
func (k Keep) Stated() bool { return k != Keep{} }

// Retention is what stays in the registry beside the channels' past.
type Retention struct {
	Grace    time.Duration // younger content stays, whatever it is; unreachable content goes after it
	Records  time.Duration // a complete, signed record stays so long though no channel took it
	Versions time.Duration // a version tag (v1.2.3) stays so long; zero: for good
	Protect  []string      // patterns of tags that always stay, as of path.Match
	Others   bool          // tags that nothing here gave, such as pr-123, may go; false: they stay
	Share    int           // percent of a repository that one plan may delete
}

// The defaults of Retention, and the shortest grace: a slow release pushes for longer than minutes.
const (
	defaultGrace   = 24 * time.Hour
	defaultRecords = 30 * 24 * time.Hour
	defaultShare   = 50
	minGrace       = time.Hour
)

func defaultRetention() Retention {
	return Retention{Grace: defaultGrace, Records: defaultRecords, Share: defaultShare}
}

func (r *reader) retention(n *yaml.Node, k *Retention) {
	r.fields(n, fields{
		"grace":    func(v *yaml.Node) { k.Grace = r.grace(v) },
		"records":  func(v *yaml.Node) { k.Records = r.span(v) },
		"versions": func(v *yaml.Node) { k.Versions = r.span(v) },
		"protect":  func(v *yaml.Node) { r.items(v, func(v *yaml.Node) { k.Protect = append(k.Protect, r.tagPattern(v)) }) },
		"others":   func(v *yaml.Node) { k.Others = r.oneOf(v, "keep", "delete") == "delete" },
		"share":    func(v *yaml.Node) { k.Share = r.percent(v) },
	})
}

// keep reads `all`, or a mapping with at least one of releases and within.
func (r *reader) keep(n *yaml.Node) (k Keep) {
	if n.Kind == yaml.ScalarNode {
		k.All = r.oneOf(n, "all") == "all"
		return k
	}
	r.fields(n, fields{
		"releases": func(v *yaml.Node) { k.Releases = r.number(v) },
		"within":   func(v *yaml.Node) { k.Within = r.span(v) },
	}, "releases")
	if n.Kind == yaml.MappingNode && k.Releases < 1 {
		r.complain(n.Line, "a channel keeps at least 1 release, or all: what it serves now is one of them")
	}
	return k
}

func (r *reader) grace(v *yaml.Node) time.Duration {
	d := r.span(v)
	if d < minGrace {
		r.complain(v.Line, "a grace of %s is shorter than %s: a release that is being pushed would not be safe", v.Value, minGrace)
	}
	return d
}

// span reads a duration that may be of days, such as 180d.
func (r *reader) span(v *yaml.Node) time.Duration {
	s := r.text(v)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36_500 {
			return time.Duration(n) * 24 * time.Hour
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d
	}
	r.complain(v.Line, "%q is not a time span such as 180d or 24h", v.Value)
	return 0
}

func (r *reader) percent(v *yaml.Node) int {
	n := r.number(v)
	if n < 1 || n > 100 {
		r.complain(v.Line, "%q is not a percentage from 1 to 100", v.Value)
	}
	return n
}

func (r *reader) tagPattern(v *yaml.Node) string {
	s := r.text(v)
	if _, err := path.Match(s, ""); err != nil || strings.Contains(s, "/") {
		r.complain(v.Line, "%q is not a pattern of tags such as demo-*", s)
	}
	return s
}
