package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/tool"
)

// commitGrammar is a commit's full name.
var commitGrammar = lazyregexp.New(`^[0-9a-f]{40}$`)

// Resolve returns the 40 hex digits of the commit that a person names by an abbreviation, a
// branch, a tag or anything of https://git-scm.com/docs/gitrevisions. It fails with fault.Invalid.
func (r *Repository) Resolve(ctx context.Context, rev string) (string, error) {
	invalid := fault.New(fault.Invalid, "resolving commit", fmt.Sprintf("%q", rev), "this clone knows no such commit").WithHint("git log shows what it knows; git fetch brings more")
	if rev == "" || strings.HasPrefix(rev, "-") || strings.HasPrefix(rev, "^") || strings.ContainsAny(rev, "\x00\n") {
		return "", invalid
	}
	commit, err := r.git(ctx, "rev-parse", "--verify", "--quiet", rev+"^{commit}")
	switch code := tool.ExitCode(err); {
	case err != nil && code < 0:
		return "", err
	case err != nil || !commitGrammar.MatchString(commit):
		return "", invalid
	}
	return commit, nil
}
