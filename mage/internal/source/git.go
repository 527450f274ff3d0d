package source

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

func (r *Repository) git(ctx context.Context, args ...string) (string, error) {
	out, err := r.raw(ctx, args...)
	return strings.TrimSpace(string(out)), err
}

func (r *Repository) raw(ctx context.Context, args ...string) ([]byte, error) {
	return tool.Output(ctx, tool.Command{Path: "git", Args: args, Dir: r.root, Env: environment()}, fault.Environment)
}

// environment pins what would make git see another source, run a program of the user's or wait
// for an answer. What a repository ignores is for its .gitignore to say, not for somebody's home:
// otherwise one commit and one work tree are clean here and dirty there.
func environment() []string {
	env := []string{"GIT_OPTIONAL_LOCKS=0", "GIT_NO_REPLACE_OBJECTS=1", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS="}
	pins := [][2]string{
		{"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"}, {"core.excludesFile", os.DevNull},
		{"fetch.recurseSubmodules", "false"}, {"maintenance.auto", "false"}, {"gc.auto", "0"},
		{"http.lowSpeedLimit", "1"}, {"http.lowSpeedTime", "60"}, // bytes a second, seconds
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(pins)))
	for i, pin := range pins {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, pin[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, pin[1]))
	}
	return env
}
