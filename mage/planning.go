package mage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
)

// planned is what build:plan prints.
type planned struct {
	Family    string               `json:"family"`
	Tag       string               `json:"tag"`
	Bake      string               `json:"bake"`
	Builder   plannedBuilder       `json:"builder"`
	Platforms []buildkit.Readiness `json:"platforms"`
	Cache     string               `json:"cache"` // CONTAINAI_CACHE
	Images    []plannedImage       `json:"images"`
	Helpers   []buildkit.Target    `json:"helpers"` // targets that images are linked to and that are none
	Artifacts []string             `json:"artifacts"`

	takers []string // channels whose releases take from a shared cache
}

type plannedBuilder struct {
	buildkit.Choice
	Fix string `json:"fix,omitempty"` // what would give one, when there is none
}

type plannedImage struct {
	buildkit.Target
	From  string `json:"from"`
	Smoke int    `json:"smokeTests"`

	Cache buildkit.CacheOf `json:"cache"` // as build:all uses it; a release takes it where its channel allows
}

// buildPlan prints what a build would make and on what; nothing is started.
func buildPlan() command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		plan, err := w.plan(ctx)
		if err != nil {
			return err
		}
		options, err := w.buildOptions()
		if err != nil {
			return err
		}
		use := release.CacheFor(release.Work, family.Gate{})
		build, err := buildkit.NewPlan(ctx, options, buildkit.Request{Plan: plan, Root: w.root, Cache: use})
		if err != nil {
			return err
		}
		out := planned{
			Family: w.fam.Name, Tag: plan.Source.Tag(), Bake: w.fam.Bake, Artifacts: w.fam.ArtifactNames(),
			Cache:   options.Shared.String(),
			Builder: plannedBuilder{build.Builder, build.Fix}, Platforms: build.Platforms, Helpers: []buildkit.Target{},
		}
		for _, t := range build.Graph.Targets {
			if image, ok := w.fam.Images[t.Name]; ok {
				cache := options.Shared.Of(t.Name, plan.Platforms, use)
				out.Images = append(out.Images, plannedImage{t, image.From, len(image.Smoke), cache})
			} else {
				out.Helpers = append(out.Helpers, t)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(w.fam.Channels)) {
			if w.fam.Channels[name].Gate.Cache {
				out.takers = append(out.takers, name)
			}
		}
		w.progress.settle()
		return w.print(out, out.String)
	}
}

// String is the plan for people: a line for each target, then what it would be built on.
func (p planned) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: %d images, from %s\n\n", p.Family, p.Tag, len(p.Images), term.Escape(p.Bake))
	table := term.Table{Head: []string{"target", "context", "is built on", "smoke tests"}}
	for _, i := range p.Images {
		table.Rows = append(table.Rows, append(targetRow(i.Target), fmt.Sprint(i.Smoke)))
	}
	for _, t := range p.Helpers {
		table.Rows = append(table.Rows, append(targetRow(t), "no image"))
	}
	b.WriteString(table.String() + "\n")
	facts := term.Table{Rows: [][]string{{"builder", p.Builder.String()}}}
	for _, fix := range lines(p.Builder.Fix) {
		facts.Rows = append(facts.Rows, []string{"", fix})
	}
	for _, r := range p.Platforms {
		facts.Rows = append(facts.Rows, []string{"platform", r.Platform + " runs " + string(r.Runs)})
		for _, fix := range lines(r.Fix) {
			facts.Rows = append(facts.Rows, []string{"", "→ " + fix})
		}
	}
	facts.Rows = append(facts.Rows, []string{"cache", p.cacheText()})
	facts.Rows = append(facts.Rows, []string{"artifacts", strings.Join(p.Artifacts, ", ")})
	return b.String() + facts.String()
}

// cacheText says who takes from the shared cache: that decides what others build.
func (p planned) cacheText() string {
	if p.Cache == "" {
		return "the builder's own; CONTAINAI_CACHE names none that is shared"
	}
	if len(p.takers) == 0 {
		return p.Cache + ", taken by builds and pull requests, by no release"
	}
	return p.Cache + ", taken by builds, pull requests and releases to " + strings.Join(p.takers, ", ")
}

func (b plannedBuilder) String() string {
	if b.Kind == "" {
		return "none can be had here:"
	}
	return strings.TrimSpace(fmt.Sprintf("%s BuildKit %s", b.Kind, b.Name)) + ": " + b.Why
}

// targetRow names a target, where its files are, and its contexts.
func targetRow(t buildkit.Target) []string {
	from := t.Context + "/" + t.Dockerfile
	if t.Dockerfile == "" {
		from = t.Context + " (Dockerfile in the bake file)"
	}
	var contexts []string
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		contexts = append(contexts, name+" = "+digests.ReplaceAllString(t.Contexts[name], "$1…"))
	}
	return []string{t.Name, from, strings.Join(contexts, ", ")}
}

// digests are cut for people; the JSON has them whole.
var digests = lazyregexp.New(`(@sha256:[0-9a-f]{12})[0-9a-f]{52}`)

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}
