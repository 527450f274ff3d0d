package buildkit

import (
	"context"
	"path/filepath"

	"github.com/containai/containai/mage/fault"
)

// Plan is what a build would do, as far as it can be known before a builder is started.
type Plan struct {
	Graph     Graph
	Builder   Choice // without a kind when none can be had
	Fix       string // what would give one
	Platforms []Readiness
}

// Readiness says how the steps of a platform run.
type Readiness struct {
	Platform string `json:"platform"`
	Runs     Runs   `json:"runs"`
	Fix      string `json:"fix,omitempty"` // what is missing here
}

// Runs is how a platform's programs run.
type Runs string

// The ways. Where the builder is not on this machine, it says so itself when it is started.
const (
	Native   Runs = "natively"
	Emulated Runs = "emulated"
	Missing  Runs = "not at all"
	Asked    Runs = "as the builder says"
)

// NewPlan resolves the graph and chooses a builder, and starts none. What is wrong with the bake file
// is an error; a machine that cannot build is part of the plan.
func NewPlan(ctx context.Context, o Options, r Request) (Plan, error) {
	images, err := closure(r.Plan.Family, r.Images)
	if err != nil {
		return Plan{}, err
	}
	state, err := filepath.Abs(o.State)
	if err != nil {
		return Plan{}, fault.Wrap(err, fault.Environment, "resolving", o.State)
	}
	o.State = state
	b := &Builder{options: o.withDefaults()}
	var p Plan
	p.Builder, err = Choose(ctx, o)
	if kind, _ := fault.KindOf(err); err != nil && kind != fault.Environment {
		return Plan{}, err
	}
	p.Fix = fault.HintOf(err)
	b.kind = p.Builder.Kind
	if err := b.findBuildx(ctx); err != nil {
		return Plan{}, err
	}
	for _, platform := range r.Plan.Platforms {
		p.Platforms = append(p.Platforms, b.readiness(platform))
	}
	p.Graph, err = b.graph(ctx, r, images)
	return p, err
}

// readiness looks at this machine, where that is where the build would run.
func (b *Builder) readiness(platform string) Readiness {
	switch {
	case b.kind != Embedded:
		return Readiness{platform, Asked, ""}
	case isNative(platform):
		return Readiness{platform, Native, ""}
	}
	if fix := b.host().fix(platform); fix != "" {
		return Readiness{platform, Missing, fix}
	}
	return Readiness{platform, Emulated, ""}
}
