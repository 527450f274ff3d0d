package pipeline

import (
	"context"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// Stage is how far a release goes.
type Stage string

// The stages that a release can stop after.
const (
	UntilBuild   Stage = "build"
	UntilInspect Stage = "inspect"
	UntilPublish Stage = "publish"
	UntilAttest  Stage = "attest"
	UntilPromote Stage = "promote" // the whole way
)

// Result is what a release did.
type Result struct {
	Source    release.Source
	Record    release.Record
	Adopted   bool // the registry had the record: nothing was built
	Tagged    int  // immutable tags created
	Attested  int  // statements signed and attached
	Reached   Stage
	Reports   []evidence.Report  // of every cell, when they were inspected or verified
	Decisions []release.Decision // which images were kept of an earlier release, and why others were not
	Outcome   Outcome
}

// Unchanged reports whether everything was in place already.
func (r Result) Unchanged() bool {
	return r.Adopted && r.Reached == UntilPromote && r.Tagged == 0 && r.Attested == 0 && !r.Outcome.Moved && len(r.Outcome.Moves) == 0
}

// Order is what a release is asked to be.
type Order struct {
	Channel string
	Version string // v1.2.3: also an immutable tag of every member; may be empty
	Until   Stage
	Moved   release.Moved
	Moves   bool // by who may only move a channel: nothing is built, inspected or signed
}

// Release takes a plan to a channel, or up to an earlier stage. Run again after anything, it
// does what is missing: what is built is not built again, what is published is adopted, what is
// signed is not signed again, and a channel that serves the release is left alone. Up to the
// inspection it does not talk to the registry: a pull request needs no credential.
func (p *Pipeline) Release(ctx context.Context, plan release.Plan, o Order) (Result, error) {
	channel, until := o.Channel, o.Until
	if err := p.known(channel); err != nil {
		return Result{}, err
	}
	if until == UntilBuild || until == UntilInspect {
		_, result, err := p.approveBuilt(ctx, plan, channel, until, nil)
		return result, err
	}
	if until == UntilPromote {
		head, err := p.reconcile(ctx)
		if err == nil {
			err = p.preflight(ctx, head, plan.Source, channel)
		}
		if err != nil {
			return Result{}, err
		}
	}
	pub, result, approve, err := p.publishOnce(ctx, plan, o)
	if err != nil {
		return result, err
	}
	if result.Tagged, err = p.NameMembers(ctx, pub); err != nil {
		return result, err
	}
	if result.Reached = UntilPublish; until == UntilPublish {
		return result, nil
	}
	if pub, result.Attested, err = p.Attest(ctx, pub, channel, approve); err != nil {
		return result, err
	}
	if result.Reached = UntilAttest; until == UntilAttest {
		return result, nil
	}
	if result.Outcome, err = p.Promote(ctx, Promotion{Published: pub, Channel: channel, Version: o.Version, Moved: o.Moved}); err != nil {
		return result, err
	}
	if result.Reached = UntilPromote; len(result.Reports) == 0 {
		result.Reports = result.Outcome.Reports
	}
	return result, nil
}

// onlyMoves refuses what a job that may only move a channel must not do beside the token that moves it.
func onlyMoves(tag string) error {
	return fault.New(fault.Refused, "moving to", tag, "it lacks something, and this job may neither build nor inspect nor sign what is missing").
		WithHint("run the job again that builds and signs, then this one")
}

// known refuses a channel that the family does not have.
func (p *Pipeline) known(channel string) error {
	if _, ok := p.Family.Channels[channel]; !ok {
		return fault.New(fault.Invalid, "releasing", channel, "%s", p.Family.Meant(channel))
	}
	return nil
}

// preflight refuses, before anything slow begins, what the channel will refuse at the end: it is
// held, or the commit does not come after what it serves.
func (p *Pipeline) preflight(ctx context.Context, head release.Head, src release.Source, channel string) error {
	if err := p.permits(channel, src.Commit, ""); err != nil {
		return err
	}
	served := head.Document.Channels[channel]
	if served.Tag == src.Tag() {
		return nil
	}
	if err := served.Free(channel); err != nil {
		return err
	}
	_, err := p.forwards(ctx, served, src, channel)
	return err
}

// Foresee says what Release would do, one line a step, and does none of it; nothing when the
// channel serves the release and all tags follow.
func (p *Pipeline) Foresee(ctx context.Context, plan release.Plan, o Order) ([]string, error) {
	if err := p.known(o.Channel); err != nil {
		return nil, err
	}
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.preflight(ctx, head, plan.Source, o.Channel); err != nil {
		return nil, err
	}
	pub, found, err := p.Adopt(ctx, plan.Source)
	if err != nil {
		return nil, err
	}
	if !found {
		return []string{
			fmt.Sprintf("build %d images on %s, and inspect every one", len(plan.Family.Images), strings.Join(plan.Platforms, ", ")),
			"ask " + o.Channel + "'s gate",
			"publish " + plan.Source.Tag() + ", and sign it",
			"move " + o.Channel + " to it",
		}, nil
	}
	claims := release.Claims(p.Family, pub.Record, pub.Node)
	_, missing, err := p.collect(ctx, claims, o.Channel)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		if err := p.mayBeSigned(ctx, pub, o.Channel); err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("sign and attach %d statements of %s", len(missing), pub.Record.Source.Tag()), "move " + o.Channel + " to it"}, nil
	}
	change, err := p.PlanPromotion(ctx, head, Promotion{Published: pub, Channel: o.Channel, Version: o.Version, Moved: o.Moved})
	return change.Steps(), err
}

// approval gives what a gate approved, when a stage after publishing needs it.
type approval func(context.Context) (release.Approved, error)

// publishOnce adopts what the registry has of the source, or builds, inspects and publishes it.
func (p *Pipeline) publishOnce(ctx context.Context, plan release.Plan, o Order) (Published, Result, approval, error) {
	channel := o.Channel
	pub, adopted, err := p.Adopt(ctx, plan.Source)
	if err == nil && !adopted && o.Moves {
		err = onlyMoves(plan.Source.Tag())
	}
	if err != nil {
		return Published{}, Result{}, nil, err
	}
	if adopted {
		if err := p.mayBeSigned(ctx, pub, channel); err != nil {
			return Published{}, Result{}, nil, err
		}
		result := Result{Source: plan.Source, Record: pub.Record, Adopted: true}
		return pub, result, func(ctx context.Context) (release.Approved, error) {
			if o.Moves {
				return release.Approved{}, onlyMoves(plan.Source.Tag())
			}
			return p.approvePublished(ctx, pub, plan, channel)
		}, nil
	}
	before := &earlier{Pipeline: p, plan: plan, channel: channel, origins: map[string]error{}}
	approved, result, err := p.approveBuilt(ctx, plan, channel, UntilInspect, before.keep)
	result.Decisions = before.decisions
	if err != nil {
		return Published{}, result, nil, err
	}
	pub, err = p.Publish(ctx, approved)
	return pub, result, func(context.Context) (release.Approved, error) { return approved, nil }, err
}

// approveBuilt builds, inspects and asks the gate; nothing has been written to a registry when
// it returns. Work that changed under the build is refused: its digests speak of no commit.
func (p *Pipeline) approveBuilt(ctx context.Context, plan release.Plan, channel string, until Stage, keep Keep) (release.Approved, Result, error) {
	result := Result{Source: plan.Source}
	built, err := p.Build(ctx, plan, keep)
	if err != nil {
		return release.Approved{}, result, err
	}
	now, err := p.History.Read(ctx)
	if err != nil {
		return release.Approved{}, result, err
	}
	if now.Rebuild = plan.Source.Rebuild; now.Tag() != plan.Source.Tag() {
		return release.Approved{}, result, fault.New(fault.Conflict, "building", plan.Source.Tag(), "the work tree became %s meanwhile", now.Tag()).
			WithHint("run the same command again; nothing was published")
	}
	result.Record, result.Reached = built.Record, UntilBuild
	if until == UntilBuild {
		return release.Approved{}, result, nil
	}
	evidenced, err := p.Evidence(ctx, built, channel)
	if err != nil {
		return release.Approved{}, result, err
	}
	result.Reports = evidenced.Reports
	approved, err := p.Approve(evidenced, channel)
	if err == nil {
		result.Reached = UntilInspect
	}
	return approved, result, err
}

// approvePublished inspects what the registry holds, for a record whose evidence is incomplete.
func (p *Pipeline) approvePublished(ctx context.Context, pub Published, plan release.Plan, channel string) (release.Approved, error) {
	built, err := p.Restore(ctx, pub, plan)
	if err != nil {
		return release.Approved{}, err
	}
	evidenced, err := p.Evidence(ctx, built, channel)
	if err != nil {
		return release.Approved{}, err
	}
	return p.Approve(evidenced, channel)
}
