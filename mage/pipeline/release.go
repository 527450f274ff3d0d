package pipeline

import (
	"context"

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
	Source   release.Source
	Record   release.Record
	Adopted  bool // the registry had the record: nothing was built
	Tagged   int  // immutable tags created
	Attested int  // statements signed and attached
	Reached  Stage
	Reports  []evidence.Report // of every cell, when they were inspected or verified
	Outcome  Outcome
}

// Unchanged reports whether everything was in place already.
func (r Result) Unchanged() bool {
	return r.Adopted && r.Reached == UntilPromote && r.Tagged == 0 && r.Attested == 0 && !r.Outcome.Moved && len(r.Outcome.Moves) == 0
}

// Release takes a plan to a channel, or up to an earlier stage. Run again after anything, it
// does what is missing: what is built is not built again, what is published is adopted, what is
// signed is not signed again, and a channel that serves the release is left alone.
func (p *Pipeline) Release(ctx context.Context, plan release.Plan, channel string, until Stage, m release.Moved) (Result, error) {
	result := Result{Source: plan.Source}
	if _, ok := p.Family.Channels[channel]; !ok {
		return result, fault.New(fault.Invalid, "releasing", channel, "the family has no such channel")
	}
	pub, adopted, err := p.Adopt(ctx, plan.Source)
	if err != nil {
		return result, err
	}
	approve := func(ctx context.Context) (release.Approved, error) {
		return p.approvePublished(ctx, pub, plan, channel)
	}
	if !adopted {
		approved, stage, err := p.approveBuilt(ctx, plan, channel, until)
		result.Reached, result.Record, result.Reports = stage, approved.Built().Record, approved.Reports()
		if err != nil || stage == until {
			return result, err
		}
		if pub, err = p.Publish(ctx, approved); err != nil {
			return result, err
		}
		approve = func(context.Context) (release.Approved, error) { return approved, nil }
	}
	result.Adopted, result.Record = adopted, pub.Record
	if result.Tagged, err = p.NameMembers(ctx, pub); err != nil {
		return result, err
	}
	if result.Reached = UntilPublish; until == UntilPublish {
		return result, nil
	}
	if result.Attested, err = p.Attest(ctx, pub, approve); err != nil {
		return result, err
	}
	if result.Reached = UntilAttest; until == UntilAttest {
		return result, nil
	}
	result.Outcome, err = p.Promote(ctx, pub, channel, m)
	if err != nil {
		return result, err
	}
	result.Reached, result.Reports = UntilPromote, result.Outcome.Reports
	return result, nil
}

// approveBuilt builds, inspects and asks the gate; nothing has been written to a registry when
// it returns. Work that changed under the build is refused: its digests speak of no commit.
func (p *Pipeline) approveBuilt(ctx context.Context, plan release.Plan, channel string, until Stage) (release.Approved, Stage, error) {
	built, err := p.Build(ctx, plan)
	if err != nil {
		return release.Approved{}, "", err
	}
	now, err := p.History.Read(ctx)
	if err != nil {
		return release.Approved{}, "", err
	}
	if now.Tag() != plan.Source.Tag() {
		return release.Approved{}, "", fault.New(fault.Conflict, "building", plan.Source.Tag(), "the work tree became %s meanwhile", now.Tag()).
			WithHint("run the same command again; nothing was published")
	}
	if until == UntilBuild {
		return release.Approved{}, UntilBuild, nil
	}
	evidenced, err := p.Evidence(ctx, built)
	if err != nil {
		return release.Approved{}, UntilBuild, err
	}
	approved, err := p.Approve(evidenced, channel)
	return approved, UntilInspect, err
}

// approvePublished inspects what the registry holds, for a record whose evidence is incomplete.
func (p *Pipeline) approvePublished(ctx context.Context, pub Published, plan release.Plan, channel string) (release.Approved, error) {
	built, err := p.Restore(ctx, pub, plan)
	if err != nil {
		return release.Approved{}, err
	}
	evidenced, err := p.Evidence(ctx, built)
	if err != nil {
		return release.Approved{}, err
	}
	return p.Approve(evidenced, channel)
}
