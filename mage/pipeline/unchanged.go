package pipeline

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// Keep says, from what every image of a plan is made from, which need not be built: those of an earlier
// release, which lie in the layout when it returns.
type Keep func(ctx context.Context, inputs map[string]release.Inputs) (map[string]release.Image, error)

// earlier is a release whose images may be kept.
type earlier struct {
	*Pipeline
	plan    release.Plan
	channel string
	head    release.Head
	pub     Published

	decisions []release.Decision
	bad       map[digest.Digest]string // by image: why it is not to be kept
	origins   map[string]error         // by commit: why nothing of it may be kept; nil when it may
}

// find looks for the newest release that this one comes after, in whichever channel, whose record
// verifies: what one channel rebuilt, the next release to another does not undo. Without one everything is built; the reason is told.
func (e *earlier) find(ctx context.Context) (err error) {
	switch {
	case e.Anew:
		return e.nothing("it was asked for: every image is built")
	case e.plan.Source.Rebuild > 0:
		return e.nothing("this is a deliberate rebuild")
	case e.plan.Source.Dirty != "":
		return e.nothing("the work tree has changes that no commit says")
	}
	if e.head, err = e.Ledger.Head(ctx); err != nil {
		return err
	}
	if err := e.vouched(ctx, e.head); err != nil {
		return cmp.Or(ctx.Err(), e.nothing(err.Error()))
	}
	if e.bad, err = e.denied(ctx); err != nil {
		return err
	}
	channels := e.head.Document.Channels
	names := slices.SortedFunc(maps.Keys(channels), func(a, b string) int {
		return cmp.Compare(channels[b].Generation, channels[a].Generation)
	})
	for _, name := range names {
		err := e.take(ctx, channels[name])
		if err == nil {
			return nil
		}
		if kind, _ := fault.KindOf(err); kind == fault.Interrupted || ctx.Err() != nil {
			return err
		}
		e.Progress.Note("build", "", fmt.Sprintf("keeping nothing of %s, which %s serves: %v", channels[name].Tag, name, err))
	}
	return e.nothing("no earlier release can be built upon")
}

// denied are the images of records that somebody marked bad, as far as the registry still has them: a
// release that kept one is not bad by its record, and the image is.
func (e *earlier) denied(ctx context.Context) (map[digest.Digest]string, error) {
	bad := map[digest.Digest]string{}
	for record, denial := range e.head.Document.Denied {
		if _, found, err := e.metadata().ByDigest(ctx, record); err != nil || !found {
			if err != nil {
				return nil, err
			}
			continue
		}
		pub, err := e.Load(ctx, record)
		if err != nil {
			return nil, err
		}
		for _, image := range pub.Record.Images {
			bad[image.Index.Digest] = fmt.Sprintf("%s marked %s bad, which has it: %s", denial.By, pub.Record.Source.Tag(), denial.Reason)
		}
	}
	return bad, nil
}

func (e *earlier) nothing(why string) error {
	e.Progress.Note("build", "", "nothing is kept of earlier releases: "+why)
	return nil
}

// take makes the earlier release that of a channel's state: its record is signed, it is of a commit that
// this one descends from, and nobody marked it bad.
func (e *earlier) take(ctx context.Context, s release.State) error {
	if err := e.head.Document.Admits(s.Record); err != nil {
		return err
	}
	if err := e.origin(ctx, s.Commit); err != nil {
		return err
	}
	pub, err := e.Load(ctx, s.Record)
	if err != nil {
		return err
	}
	if pub.Record.Source.Dirty != "" || pub.Record.Source.Commit != s.Commit {
		return fault.New(fault.Refused, "reading record", s.Tag, "it is of no commit alone")
	}
	signed, err := e.recordSigned(ctx, pub, e.channel)
	if err == nil && !signed {
		err = fault.New(fault.Unverified, "reading record", s.Tag, "nobody that the family trusts signed it")
	}
	if err == nil {
		e.pub = pub
	}
	return err
}

// origin refuses a commit that this release does not descend from, or that somebody denied: what was
// built or inspected there is not taken over. An answer is remembered.
func (e *earlier) origin(ctx context.Context, commit string) error {
	if err, known := e.origins[commit]; known {
		return err
	}
	descends, err := e.History.Descends(ctx, e.plan.Source.Commit, commit)
	if err == nil && (!descends || commit == e.plan.Source.Commit) {
		err = fault.New(fault.Refused, "keeping what came from", commit, "it is no ancestor of %s", e.plan.Source.Commit)
	}
	for _, denial := range e.head.Document.Denied {
		if err == nil && denial.Commit == commit {
			err = fault.New(fault.Refused, "keeping what came from", commit, "%s marked it bad: %s", denial.By, denial.Reason)
		}
	}
	if reason, denied := e.Family.Policy(e.channel).Denied("", commit); err == nil && denied {
		err = fault.New(fault.Refused, "keeping what came from", commit, "the policy denies it: %s", reason)
	}
	e.origins[commit] = err
	return err
}

// keep answers [Keep]: it decides by the inputs, and believes no image whose evidence does not verify or
// whose content is not whole. What was found before the vulnerability database or a scanner changed is
// not taken over: the image is, and is inspected again.
func (e *earlier) keep(ctx context.Context, inputs map[string]release.Inputs) (map[string]release.Image, error) {
	kept := map[string]release.Image{}
	if err := e.find(ctx); err != nil || e.pub.Node.Digest == "" {
		return kept, err
	}
	e.decisions = release.Keepable(e.plan, inputs, e.pub.Record)
	found, err := e.enduring(ctx)
	if err != nil {
		return nil, err
	}
	for i := range e.decisions {
		d := &e.decisions[i]
		_, parent := kept[e.Family.Images[d.Image].From]
		if d.Keep && !parent && e.Family.Images[d.Image].From != "" {
			d.Keep, d.Why = false, e.Family.Images[d.Image].From+" is built anew"
		}
		if d.Keep {
			image, err := e.bring(ctx, d.Image, found)
			switch {
			case ctx.Err() != nil:
				return nil, err
			case err != nil:
				d.Keep, d.Why = false, err.Error()
			default:
				kept[d.Image] = image
				d.Why += again(image)
			}
		}
		e.tell(*d)
	}
	return kept, nil
}

// enduring is the evidence of what may be kept, without what the channel's policy soon finds too old: it would
// be refused while the channel serves it, and what is built anew is signed anew.
func (e *earlier) enduring(ctx context.Context) (Found, error) {
	p := *e.Pipeline
	if v, ok := p.Verifier.(Enduring); ok {
		p.Verifier = v.Enduring()
	}
	found, _, err := p.collect(ctx, e.claims(), e.channel)
	return found, err
}

func (e *earlier) tell(d release.Decision) {
	if d.Keep {
		e.Progress.Done("build", d.Image, "kept: "+d.Why)
		return
	}
	e.Progress.Note("build", d.Image, "to be built: "+d.Why)
}

// again says what a kept image costs.
func again(image release.Image) string {
	if image.Inspected == "" {
		return "; it is scanned again, because the vulnerability database or a scanner is another"
	}
	return "; it is not built, scanned or signed"
}

// claims are those about the images that may be kept.
func (e *earlier) claims() []release.Claim {
	keep := map[string]bool{}
	for _, d := range e.decisions {
		keep[d.Image] = d.Keep
	}
	return slices.DeleteFunc(release.Claims(e.Family, e.pub.Record, e.pub.Node), func(c release.Claim) bool { return !keep[c.Member] })
}

// bring proves one image, that it is whole in the registry, and copies it into the layout.
func (e *earlier) bring(ctx context.Context, name string, found Found) (release.Image, error) {
	r := e.pub.Record
	for _, commit := range []string{r.BuiltBy(name), r.InspectedBy(name)} {
		if err := e.origin(ctx, commit); err != nil {
			return release.Image{}, err
		}
	}
	if why, bad := e.bad[r.Images[name].Index.Digest]; bad {
		return release.Image{}, fault.New(fault.Refused, "keeping", name, "%s", why)
	}
	if r.Images[name].Cached && !e.Family.Channels[e.channel].Gate.Cache {
		return release.Image{}, fault.New(fault.Refused, "keeping", name, "it was built where a shared cache could have a say, and %s takes none of that", e.channel)
	}
	claims := slices.DeleteFunc(release.Claims(e.Family, r, e.pub.Node), func(c release.Claim) bool { return c.Member != name })
	if missing := found.Missing(claims); len(missing) > 0 {
		return release.Image{}, fault.New(fault.Unverified, "keeping", name, "%d of its statements are missing or do not verify, the first is %s", len(missing), missing[0].Predicate)
	}
	for _, c := range claims {
		if reason, denied := e.Family.Policy(e.channel).Denied(c.Subject.Digest, ""); denied {
			return release.Image{}, fault.New(fault.Refused, "keeping", name, "the policy denies %s: %s", c.Subject.Digest, reason)
		}
	}
	holds, err := e.evidenceHolds(ctx, name, found, claims)
	if err == nil && !holds && e.Family.Policy(e.channel).Instance == family.Key {
		err = fault.New(fault.Refused, "keeping", name, "it has to be scanned again, and a key's signatures do not tell two scans apart")
	}
	if err == nil {
		err = present(ctx, make(chan struct{}, maxLooking), e.Registry.Repository(name), r.Images[name].Index)
	}
	if err == nil {
		err = e.Layout.CopyFrom(ctx, e.Registry.Repository(name), r.Images[name].Index)
	}
	return r.Keep(name, holds), err
}

// evidenceHolds reports whether an inspection today would be made by the same tools with the same
// database, and the SBOM that was scanned still hangs on every platform.
func (e *earlier) evidenceHolds(ctx context.Context, name string, found Found, claims []release.Claim) (bool, error) {
	reports, err := found.Reports(claims)
	if err != nil || len(reports) != len(e.pub.Record.Images[name].Platforms) {
		return false, err
	}
	for _, report := range reports {
		n, _ := e.pub.Record.Digest(report.Cell)
		if report.Cell.Image != name || report.Digest != n.Digest {
			return false, fault.New(fault.Forged, "keeping", name, "a scan of it speaks of %s %s", report.Cell, report.Digest)
		}
		attached, err := Attachments(ctx, e.Registry.Repository(name), n, evidence.SBOMType)
		if err != nil {
			return false, err
		}
		there := slices.ContainsFunc(attached.Documents, func(content []byte) bool { return digest.FromBytes(content) == report.SBOM })
		holds, err := e.Inspect.Holds(ctx, report)
		if !there || !holds || err != nil {
			return false, err
		}
	}
	return true, nil
}

// keptReports reads what earlier releases found in the images that a record kept with their evidence,
// verified by the policy of the channel that the record goes to.
func (p *Pipeline) keptReports(ctx context.Context, r release.Record, channel string) ([]evidence.Report, error) {
	claims := slices.DeleteFunc(release.Claims(p.Family, r, graph.Node{}), func(c release.Claim) bool {
		return r.Images[c.Member].Inspected == "" || c.Predicate != evidence.Scan
	})
	if len(claims) == 0 {
		return nil, nil
	}
	found, missing, err := p.collect(ctx, claims, channel)
	if err == nil && len(missing) > 0 {
		err = fault.New(fault.Unverified, "reading the scan of", strings.TrimSpace(missing[0].Member+" "+missing[0].Platform), "it is not there any more, or does not verify").
			WithHint("release the commit anew with -rebuild, which keeps nothing of earlier releases")
	}
	if err != nil {
		return nil, err
	}
	return found.Reports(claims)
}

// toInspect is what of a build no earlier release has inspected.
func toInspect(b release.Built) release.Built {
	b.Record.Images = maps.Clone(b.Record.Images)
	maps.DeleteFunc(b.Record.Images, func(_ string, i release.Image) bool { return i.Inspected != "" })
	return b
}
