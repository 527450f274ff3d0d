package family

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// MaxFile bounds a family file, in bytes.
const MaxFile = 1 << 20

// Parse reads a family file and validates it. File is its name for messages. The error is
// [*Problems] with everything that is wrong, each with file, line and, where one is near, the
// word that was probably meant.
func Parse(file string, content []byte) (*Family, error) {
	r := &reader{file: file}
	doc, ok := r.document(content)
	if !ok {
		return nil, r.err()
	}
	f := r.family(doc)
	r.validate(f)
	return f, r.err()
}

// document reads YAML within the limit; false means that it complained.
func (r *reader) document(content []byte) (*yaml.Node, bool) {
	if len(content) > MaxFile {
		r.complain(1, "the file has %d bytes, at most %d are read", len(content), MaxFile)
		return nil, false
	}
	var doc yaml.Node
	switch err := yaml.Unmarshal(content, &doc); {
	case err != nil:
		r.syntax(err)
	case len(doc.Content) == 0:
		r.complain(1, "the file is empty")
	default:
		return doc.Content[0], true
	}
	return nil, false
}

func (r *reader) family(n *yaml.Node) *Family {
	f := &Family{
		Images: map[string]Image{}, Artifacts: map[string]Artifact{}, Channels: map[string]Channel{},
		Ledger:    Ledger{Branch: "containai-channels", Ref: "refs/containai/channels"},
		Retention: defaultRetention(),

		Vulnerabilities: Vulnerabilities{MaxAge: defaultMaxAge},
	}
	overrides := map[string]*yaml.Node{}
	r.fields(n, fields{
		"schema":    func(v *yaml.Node) { r.schema(v) },
		"name":      func(v *yaml.Node) { f.Name = r.text(v) },
		"source":    func(v *yaml.Node) { f.Source = r.text(v) },
		"bake":      func(v *yaml.Node) { f.Bake = r.text(v) },
		"platforms": func(v *yaml.Node) { f.Platforms = r.list(v) },
		"os":        func(v *yaml.Node) { f.Base = r.osBase(v) },
		"images":    func(v *yaml.Node) { r.each(v, func(name string, v *yaml.Node) { f.Images[name] = r.image(v) }) },
		"artifacts": func(v *yaml.Node) { r.each(v, func(name string, v *yaml.Node) { f.Artifacts[name] = r.artifact(v) }) },
		"channels": func(v *yaml.Node) {
			r.each(v, func(name string, v *yaml.Node) { f.Channels[name] = r.channel(v, overrides) })
		},
		"ledger":    func(v *yaml.Node) { r.ledger(v, &f.Ledger) },
		"trust":     func(v *yaml.Node) { r.trust(v, &f.Trust) },
		"retention": func(v *yaml.Node) { r.retention(v, &f.Retention) },

		"vulnerabilities": func(v *yaml.Node) { r.vulnerabilities(v, &f.Vulnerabilities) },
	}, "schema", "name", "source", "bake", "platforms", "os", "images", "channels")
	r.override(f, overrides)
	f.file, f.lines = r.file, r.lines
	return f
}

func (r *reader) schema(v *yaml.Node) {
	if r.text(v) != "1" {
		r.complain(v.Line, "schema %s is not known; this library reads schema 1", v.Value)
	}
}

func (r *reader) osBase(n *yaml.Node) (b OSBase) {
	r.fields(n, fields{
		"image":    func(v *yaml.Node) { b.Image = r.text(v) },
		"suite":    func(v *yaml.Node) { b.Suite = r.text(v) },
		"packages": func(v *yaml.Node) { b.Packages = r.list(v) },
	}, "image", "suite")
	return b
}

func (r *reader) image(n *yaml.Node) (image Image) {
	r.fields(n, fields{
		"from": func(v *yaml.Node) { image.From = r.text(v) },
		"smoke": func(v *yaml.Node) {
			r.items(v, func(v *yaml.Node) { image.Smoke = append(image.Smoke, r.smoke(v)) })
		},
	})
	return image
}

func (r *reader) smoke(n *yaml.Node) Smoke {
	s := Smoke{Within: time.Minute}
	r.fields(n, fields{
		"name":    func(v *yaml.Node) { s.Name = r.text(v) },
		"run":     func(v *yaml.Node) { s.Run = r.list(v) },
		"prints":  func(v *yaml.Node) { s.Prints = r.pattern(v) },
		"exit":    func(v *yaml.Node) { s.Exit = r.number(v) },
		"within":  func(v *yaml.Node) { s.Within = r.duration(v) },
		"network": func(v *yaml.Node) { s.Network = r.truth(v) },
	}, "name", "run")
	return s
}

func (r *reader) artifact(n *yaml.Node) (a Artifact) {
	r.fields(n, fields{
		"kind":  func(v *yaml.Node) { a.Kind = Kind(r.oneOf(v, string(Payload), string(Installer), string(Metadata))) },
		"path":  func(v *yaml.Node) { a.Path = r.text(v) },
		"type":  func(v *yaml.Node) { a.Type = r.mediaType(v) },
		"layer": func(v *yaml.Node) { a.Layer = r.mediaType(v) },
	}, "kind")
	return a
}

func (r *reader) channel(n *yaml.Node, overrides map[string]*yaml.Node) (c Channel) {
	name := r.path[len(r.path)-1]
	r.fields(n, fields{
		"dirty": func(v *yaml.Node) { c.Dirty = r.truth(v) },
		"on":    func(v *yaml.Node) { c.On = r.events(v) },
		"order": func(v *yaml.Node) { c.Explicit = r.oneOf(v, "ancestry", "explicit") == "explicit" },
		"gate":  func(v *yaml.Node) { c.Gate = r.gate(v) },
		"keep":  func(v *yaml.Node) { c.Keep = r.keep(v) },
		"trust": func(v *yaml.Node) { overrides[name] = v }, // read when the family's own is known
	}, "gate")
	return c
}

func (r *reader) ledger(n *yaml.Node, l *Ledger) {
	r.fields(n, fields{
		"branch": func(v *yaml.Node) { l.Branch = r.text(v) },
		"ref":    func(v *yaml.Node) { l.Ref = r.text(v) },
	})
}

// mediaTypeGrammar is RFC 6838, section 4.2; no registry has capitals in them.
var mediaTypeGrammar = lazyregexp.New(`^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$`)

func (r *reader) mediaType(v *yaml.Node) string {
	s := r.text(v)
	if !mediaTypeGrammar.MatchString(s) {
		r.complain(v.Line, "%q is not a media type such as application/vnd.example.tools.v1", s)
	}
	return s
}

func (r *reader) pattern(v *yaml.Node) string {
	s := r.text(v)
	if _, err := regexp.Compile(s); err != nil {
		r.complain(v.Line, "%q is not a regular expression: %v", s, err)
	}
	return s
}

func (r *reader) number(v *yaml.Node) int {
	n, err := strconv.Atoi(r.text(v))
	if err != nil {
		r.complain(v.Line, "%q is not a number", v.Value)
	}
	return n
}

func (r *reader) duration(v *yaml.Node) time.Duration {
	d, err := time.ParseDuration(r.text(v))
	if err != nil || d <= 0 {
		r.complain(v.Line, "%q is not a duration such as 30s or 2m", v.Value)
	}
	return d
}

func (r *reader) day(v *yaml.Node) time.Time {
	t, err := time.Parse(time.DateOnly, r.text(v))
	if err != nil {
		r.complain(v.Line, "%q is not a day such as 2026-12-31", v.Value)
	}
	return t
}

func (r *reader) truth(v *yaml.Node) bool { return r.oneOf(v, "true", "false") == "true" }

func (r *reader) oneOf(v *yaml.Node, allowed ...string) string {
	s := r.text(v)
	for _, a := range allowed {
		if s == a {
			return s
		}
	}
	r.complain(v.Line, "%q is not one of %v%s", s, allowed, suggest(s, allowed))
	return ""
}

// syntax turns the YAML library's error, which carries its line as text, into a complaint.
func (r *reader) syntax(err error) {
	line, message := 1, err.Error()
	if m := regexp.MustCompile(`line (\d+): (.*)`).FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = m[2]
	}
	r.complain(line, "%s", fmt.Sprintf("not YAML: %s (check indentation, colons and quotes on this line and the next)", message))
}
