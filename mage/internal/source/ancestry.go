package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// depths are how many more commits a shallow clone asks for, one step after the other, before it
// asks for all of them.
func depths() []int { return []int{64, 512, 4096} }

// Descends reports whether commit has ancestor in its history; both are 40 hex digits. Where a
// shallow clone cuts the history off, more of it is fetched; an ancestor that remains unknown is
// a fault.Environment whose hint is the command that helps, and not a no.
func (r *Repository) Descends(ctx context.Context, commit, ancestor string) (bool, error) {
	if !commitGrammar.MatchString(commit) || !commitGrammar.MatchString(ancestor) {
		return false, fault.New(fault.Invalid, "comparing", fmt.Sprintf("%q with %q", ancestor, commit), "both must be 40 hex digits")
	}
	for _, depth := range depths() {
		switch a, err := r.compare(ctx, commit, ancestor); {
		case err != nil || a == descends:
			return a == descends, err
		case !r.isShallow(ctx):
			return r.conclude(ctx, a, commit, ancestor)
		}
		if err := r.fetch(ctx, commit, fmt.Sprintf("--deepen=%d", depth)); err != nil {
			return false, r.unknown(commit, ancestor, err, "--unshallow")
		}
	}
	if r.isShallow(ctx) {
		if err := r.fetch(ctx, commit, "--unshallow"); err != nil {
			return false, r.unknown(commit, ancestor, err, "--unshallow")
		}
	}
	a, err := r.compare(ctx, commit, ancestor)
	if err != nil {
		return false, err
	}
	return r.conclude(ctx, a, commit, ancestor)
}

// conclude answers with the whole history of commit at hand. An ancestor that is not here is
// asked for by name: it may be on a branch that this clone does not follow.
func (r *Repository) conclude(ctx context.Context, a answer, commit, ancestor string) (bool, error) {
	if a != unknown {
		return a == descends, nil
	}
	if err := r.fetch(ctx, ancestor); err != nil {
		return false, r.unknown(commit, ancestor, err, "")
	}
	a, err := r.compare(ctx, commit, ancestor)
	if err == nil && a == unknown {
		err = r.unknown(commit, ancestor, fmt.Errorf("the remote has no such commit"), "")
	}
	return a == descends, err
}

// answer is what this clone can say about two commits.
type answer string

const (
	descends answer = "descends"
	apart    answer = "apart" // as far as the history goes here
	unknown  answer = "unknown"
)

func (r *Repository) compare(ctx context.Context, commit, ancestor string) (answer, error) {
	_, err := r.git(ctx, "merge-base", "--is-ancestor", ancestor, commit)
	switch tool.ExitCode(err) {
	case 1:
		return apart, nil
	case 128:
		return unknown, nil
	}
	return descends, err
}

func (r *Repository) isShallow(ctx context.Context) bool {
	out, err := r.git(ctx, "rev-parse", "--is-shallow-repository")
	return err == nil && out == "true"
}

// fetch brings the history of a commit, and moves no ref of the clone. A commit that was never
// pushed is no commit of the remote's: then the remote's branches are fetched.
func (r *Repository) fetch(ctx context.Context, commit string, options ...string) error {
	remote, err := r.remote(ctx)
	if err != nil {
		return err
	}
	args := append([]string{"fetch", "--quiet", "--no-tags", "--no-prune", "--no-write-fetch-head"}, options...)
	if _, err = r.git(ctx, append(args, "--refmap=", "--", remote, commit)...); err == nil || len(options) == 0 {
		return err
	}
	_, err = r.git(ctx, append(args, "--", remote)...)
	return err
}

// remote names where history comes from: origin, or the first.
func (r *Repository) remote(ctx context.Context) (string, error) {
	out, err := r.git(ctx, "remote")
	if err != nil {
		return "", err
	}
	names := strings.Fields(out)
	for _, name := range names {
		if name == "origin" {
			return name, nil
		}
	}
	if len(names) == 0 {
		return "", fault.New(fault.Environment, "fetching", "history", "the clone has no remote")
	}
	return names[0], nil
}

func (r *Repository) unknown(commit, ancestor string, err error, option string) error {
	hint := "git fetch origin " + ancestor
	if option != "" {
		hint = "git fetch " + option + " origin"
	}
	return &fault.Error{Op: "comparing", Subject: ancestor + " with " + commit, Kind: fault.Environment,
		Err: fmt.Errorf("this clone does not know whether one descends from the other: %w", err), Hint: hint}
}
