package family

import (
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Policy says whose signatures count and what they must cover. A family has one, and a channel
// may override parts of it; its zero value trusts nobody.
type Policy struct {
	Instance Instance                 // who vouches for signers
	Signer   Signer                   // who releases
	Movers   []Signer                 // who may sign the channels document; empty means Signer alone
	Require  map[SubjectKind][]Demand // demands of a kind of subject; a kind without an entry takes the default
	MaxAge   time.Duration            // of a signature; 0 is any age
	MaxJump  uint64                   // generations a channels document may be ahead of the last one seen
	Deny     []Denial
}

// Instance names the Sigstore that issued the signer's certificate, or says that there is none.
type Instance string

// The instances. Each has a trusted root of its own, and asks for what its bundles carry.
const (
	Public Instance = "public" // public-good Sigstore: certificate promise, log entry, time
	GitHub Instance = "github" // GitHub's own, for private repositories: a timestamp, no log
	Local  Instance = "local"  // this machine's: as public
	Key    Instance = "key"    // a key pair: a signature and nothing else
)

// DefaultJump is the MaxJump of a policy that names none: more moves than a family makes in ten
// years, and far from the numbers that would shut later documents out (fast-forward attack).
const DefaultJump = 1_000_000

// Signer is one identity that may sign. A field that is empty accepts anything, but for Issuer,
// Repository and Ref, which only a key may leave out.
type Signer struct {
	Issuer       string  // OIDC issuer
	Repository   string  // URL of the source repository
	RepositoryID string  // decimal; repositories can be renamed and their names taken by others
	OwnerID      string  // decimal
	Workflow     string  // path of the workflow that was started
	Ref          Pattern // source ref: refs/heads/main, refs/tags/v*
	Builder      Pattern // builder id, a reusable workflow at a ref; empty: Workflow of Repository at the source ref
	Runner       string  // runner environment: github-hosted, self-hosted
	Key          string  // PEM of an ECDSA P-256 public key, instead of all the above but Repository, Ref and Builder
}

// String says in a few words whom a signer means.
func (s Signer) String() string {
	if s.Key != "" {
		return "the holder of the family's key"
	}
	who := strings.TrimSuffix(s.Repository, "/")
	if s.Workflow != "" {
		who += "/" + s.Workflow
	}
	if s.Ref != "" {
		who += "@" + string(s.Ref)
	}
	return who
}

// SubjectKind says what a digest is, and so what must be said about it.
type SubjectKind string

// The kinds of subjects.
const (
	PlatformManifest SubjectKind = "platform"
	ImageIndex       SubjectKind = "index"
	PayloadManifest  SubjectKind = "payload"
	InstallManifest  SubjectKind = "installer"
	RecordManifest   SubjectKind = "record"
	ChannelsDocument SubjectKind = "channels"
)

// Demand is a statement that a subject must have.
type Demand string

// The demands.
const (
	DemandSignature  Demand = "signature"
	DemandProvenance Demand = "provenance"
	DemandSBOM       Demand = "sbom"
	DemandScan       Demand = "scan"
)

// Denial takes a digest or a commit back, whatever its evidence says.
type Denial struct {
	Digest digest.Digest
	Commit string
	Reason string
}

// Denied returns why a digest or a commit is denied. Empty arguments match nothing.
func (p Policy) Denied(d digest.Digest, commit string) (reason string, denied bool) {
	for _, x := range p.Deny {
		if d != "" && x.Digest == d || commit != "" && x.Commit == commit {
			return x.Reason, true
		}
	}
	return "", false
}

// MayMove returns who may sign the channels document.
func (p Policy) MayMove() []Signer {
	if len(p.Movers) > 0 {
		return p.Movers
	}
	return []Signer{p.Signer}
}

// Policy returns what a channel trusts; an unknown or empty name is the family's own policy.
func (f *Family) Policy(channel string) Policy {
	if c, ok := f.Channels[channel]; ok {
		return c.Trust
	}
	return f.Trust
}

// Pattern is a name with "*" for any run of characters but "/". It matches whole names only;
// without "*" it matches itself alone.
type Pattern string

// Match reports whether the pattern matches all of s. Its time is at most quadratic.
func (p Pattern) Match(s string) bool {
	star, mark := -1, 0 // the last star, and where its run ended in s
	i, j := 0, 0
	for i < len(s) {
		switch {
		case j < len(p) && p[j] == '*':
			star, mark = j, i
			j++
		case j < len(p) && p[j] == s[i]:
			i, j = i+1, j+1
		case star >= 0 && s[mark] != '/':
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	return strings.Trim(string(p[j:]), "*") == ""
}

// ParsePolicy reads a file that holds a policy alone: the value of `trust:` in a family file.
func ParsePolicy(file string, content []byte) (Policy, error) {
	r := &reader{file: file}
	doc, ok := r.document(content)
	if !ok {
		return Policy{}, r.err()
	}
	p := Policy{}
	r.trust(doc, &p)
	r.validatePolicy(p)
	return p, r.err()
}

// override gives every channel its policy: the family's, and what its own `trust` changes in it.
func (r *reader) override(f *Family, overrides map[string]*yaml.Node) {
	for _, name := range slices.Sorted(maps.Keys(f.Channels)) {
		c := f.Channels[name]
		c.Trust = f.Trust
		if n, ok := overrides[name]; ok {
			r.path = []string{"channels", name, "trust"}
			r.trust(n, &c.Trust)
			r.path = nil
			r.validatePolicy(c.Trust, "channels", name, "trust")
		}
		f.Channels[name] = c
	}
	f.Trust.Movers = f.movers(f.Trust)
	for name, c := range f.Channels {
		c.Trust.Movers = f.movers(c.Trust)
		f.Channels[name] = c
	}
}

// movers are who may sign the channels document where a policy does not say: it is one document
// for all channels, so whoever releases to one of them may have signed the newest.
func (f *Family) movers(p Policy) []Signer {
	if len(p.Movers) > 0 {
		return p.Movers
	}
	all := []Signer{p.Signer}
	for _, name := range slices.Sorted(maps.Keys(f.Channels)) {
		s := f.Channels[name].Trust.Signer
		if !slices.Contains(all, s) && (s.Key == "") == (p.Signer.Key == "") {
			all = append(all, s)
		}
	}
	if len(all) == 1 {
		return nil
	}
	return all
}

// trust reads a policy over what p holds already: a channel's over its family's.
func (r *reader) trust(n *yaml.Node, p *Policy) {
	known := r.signerFields(&p.Signer)
	known["instance"] = func(v *yaml.Node) {
		p.Instance = Instance(r.oneOf(v, string(Public), string(GitHub), string(Local), string(Key)))
	}
	var movers *yaml.Node // read last: they say only what differs
	known["movers"] = func(v *yaml.Node) { movers = v }
	known["require"] = func(v *yaml.Node) { p.Require = r.demands(v) }
	known["max-age"] = func(v *yaml.Node) { p.MaxAge = r.days(v) }
	known["max-jump"] = func(v *yaml.Node) { p.MaxJump = r.positive(v) }
	known["deny"] = func(v *yaml.Node) {
		r.items(v, func(v *yaml.Node) { p.Deny = append(slices.Clip(p.Deny), r.denial(v)) })
	}
	r.fields(n, known)
	if movers != nil {
		p.Movers = nil
		r.path = append(r.path, "movers")
		r.items(movers, func(v *yaml.Node) { p.Movers = append(p.Movers, r.mover(v, p.Signer)) })
		r.path = r.path[:len(r.path)-1]
	}
	if p.Instance == "" {
		p.Instance = Public
	}
	if p.MaxJump == 0 {
		p.MaxJump = DefaultJump
	}
}

func (r *reader) signerFields(s *Signer) fields {
	return fields{
		"issuer":        func(v *yaml.Node) { s.Issuer = r.text(v) },
		"repository":    func(v *yaml.Node) { s.Repository = r.text(v) },
		"repository-id": func(v *yaml.Node) { s.RepositoryID = r.text(v) },
		"owner-id":      func(v *yaml.Node) { s.OwnerID = r.text(v) },
		"workflow":      func(v *yaml.Node) { s.Workflow = r.text(v) },
		"ref":           func(v *yaml.Node) { s.Ref = Pattern(r.text(v)) },
		"builder":       func(v *yaml.Node) { s.Builder = Pattern(r.text(v)) },
		"runner":        func(v *yaml.Node) { s.Runner = r.text(v) },
		"key":           func(v *yaml.Node) { s.Key = r.text(v) },
	}
}

// mover is a signer that differs from the family's in the fields it names.
func (r *reader) mover(n *yaml.Node, like Signer) Signer {
	like.Builder = ""
	r.fields(n, r.signerFields(&like))
	r.validateSigner(like, n.Line, r.path...)
	return like
}

func (r *reader) demands(n *yaml.Node) map[SubjectKind][]Demand {
	require := map[SubjectKind][]Demand{}
	r.each(n, func(kind string, v *yaml.Node) {
		kinds := []string{string(PlatformManifest), string(ImageIndex), string(PayloadManifest), string(InstallManifest)}
		if !slices.Contains(kinds, kind) {
			r.complain(r.at(r.path...), "%q is not one of %v%s", kind, kinds, suggest(kind, kinds))
		}
		list := []Demand{}
		r.items(v, func(v *yaml.Node) {
			list = append(list, Demand(r.oneOf(v, string(DemandSignature), string(DemandProvenance), string(DemandSBOM), string(DemandScan))))
		})
		if len(list) == 0 {
			r.complain(v.Line, "%s must be asked for at least one statement", kind)
		}
		require[SubjectKind(kind)] = list
	})
	return require
}

func (r *reader) denial(n *yaml.Node) (d Denial) {
	r.fields(n, fields{
		"digest": func(v *yaml.Node) { d.Digest = digest.Digest(r.text(v)) },
		"commit": func(v *yaml.Node) { d.Commit = r.text(v) },
		"reason": func(v *yaml.Node) { d.Reason = r.text(v) },
	}, "reason")
	if (d.Digest == "") == (d.Commit == "") || d.Digest != "" && (d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256) || d.Commit != "" && !commitGrammar.MatchString(d.Commit) {
		r.complain(n.Line, "a denial names one digest (sha256:…) or one commit (40 hex digits)")
	}
	return d
}

// days reads a duration in Go's notation or in whole days: 90d.
func (r *reader) days(v *yaml.Node) time.Duration {
	text, isDays := strings.CutSuffix(r.text(v), "d")
	if n, err := strconv.ParseUint(text, 10, 16); isDays && err == nil && n > 0 {
		return time.Duration(n) * 24 * time.Hour
	}
	d, err := time.ParseDuration(v.Value)
	if err != nil || d <= 0 {
		r.complain(v.Line, "%q is not an age such as 90d or 36h", v.Value)
	}
	return d
}

func (r *reader) positive(v *yaml.Node) uint64 {
	n, err := strconv.ParseUint(r.text(v), 10, 62)
	if err != nil || n == 0 {
		r.complain(v.Line, "%q is not a positive number", v.Value)
	}
	return n
}

var (
	commitGrammar   = lazyregexp.New(`^[0-9a-f]{40}$`)
	idGrammar       = lazyregexp.New(`^([0-9]{1,20})?$`)
	workflowGrammar = lazyregexp.New(`^([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]+\.ya?ml$`)
	refPattern      = lazyregexp.New(`^refs/[A-Za-z0-9._/*-]*$`)
	builderPattern  = lazyregexp.New(`^https://[A-Za-z0-9.-]+/[A-Za-z0-9._/-]+(@[A-Za-z0-9._/*-]+)?$`)
)

// validatePolicy checks a policy as a whole; path is where it stands.
func (r *reader) validatePolicy(p Policy, path ...string) {
	line := r.at(path...)
	if p.Instance == Local {
		return // its only signer is this machine's, whose name is known
	}
	r.validateSigner(p.Signer, line, path...)
	switch {
	case (p.Instance == Key) != (p.Signer.Key != ""):
		r.complain(line, "instance key and the field key belong together")
	case p.Instance == Key && p.MaxAge > 0:
		r.complain(line, "a key's signatures carry no time: max-age cannot be checked")
	}
	for _, m := range p.Movers {
		if (m.Key != "") != (p.Instance == Key) {
			r.complain(line, "movers sign as the releases do: all by keys or all by identities")
		}
	}
}

// validateSigner complains at the line of each field, or at line where a field is missing.
func (r *reader) validateSigner(s Signer, line int, path ...string) {
	at := func(field string) int {
		if known, ok := r.lines[strings.Join(append(slices.Clip(path), field), ".")]; ok {
			return known
		}
		return line
	}
	if s.Key != "" {
		r.validateKey(at("key"), s)
		return
	}
	for _, field := range [][2]string{{"issuer", s.Issuer}, {"repository", s.Repository}, {"ref", string(s.Ref)}, {"workflow", s.Workflow + string(s.Builder)}} {
		if field[1] == "" {
			r.complain(line, "field %q is missing", field[0])
		}
	}
	for _, field := range [][2]string{{"issuer", s.Issuer}, {"repository", s.Repository}} {
		if field[1] != "" && !plainURL(field[1]) {
			r.complain(at(field[0]), "%q is not a plain https URL", field[1])
		}
	}
	for _, field := range [][2]string{{"repository-id", s.RepositoryID}, {"owner-id", s.OwnerID}} {
		if !idGrammar.MatchString(field[1]) {
			r.complain(at(field[0]), "%q is not a decimal number", field[1])
		}
	}
	if s.Workflow != "" && (!workflowGrammar.MatchString(s.Workflow) || strings.Contains(s.Workflow, "..")) {
		r.complain(at("workflow"), "%q is not the path of a workflow such as .github/workflows/release.yml", s.Workflow)
	}
	if s.Ref != "" && !refPattern.MatchString(string(s.Ref)) {
		r.complain(at("ref"), "%q is not a ref such as refs/heads/main or refs/tags/v*", s.Ref)
	}
	if s.Builder != "" && !builderPattern.MatchString(string(s.Builder)) {
		r.complain(at("builder"), "%q is not a builder such as https://github.com/owner/repository/.github/workflows/build.yml@refs/tags/v*", s.Builder)
	}
}

// plainURL: https and nothing that could be read in two ways. A "*" would match nothing here.
func plainURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && !strings.HasSuffix(s, "/") && !strings.ContainsAny(s, "*?#% ")
}

func (r *reader) validateKey(line int, s Signer) {
	if block, rest := pem.Decode([]byte(s.Key)); block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		r.complain(line, "key is not one PEM block of type PUBLIC KEY")
	}
	if s.Issuer+s.RepositoryID+s.OwnerID+s.Workflow+s.Runner != "" {
		r.complain(line, "a key proves no issuer, ids, workflow or runner: leave them out")
	}
}
