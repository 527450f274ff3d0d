package ledger

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// setting is one line of git's configuration, handed to one process by its environment:
// https://git-scm.com/docs/git-config#Documentation/git-config.txt-GITCONFIGCOUNT
type setting struct{ key, value string }

// pins are the settings that decide what a command of the ledger means and which programs it
// starts. The rest stays the user's: proxies, credential helpers, certificates, url.*.insteadOf.
func pins() []setting {
	return []setting{
		{"core.hooksPath", os.DevNull},
		{"core.fsmonitor", "false"},
		{"core.fsync", "all"},                // a power cut leaves the old head or the new one
		{"core.filesRefLockTimeout", "1000"}, // milliseconds to wait for another git
		{"i18n.commitEncoding", "UTF-8"},
		{"push.gpgSign", "false"},           // the documents are signed, not the pushes
		{"push.pushOption", ""},             // forgets the user's
		{"fetch.showForcedUpdates", "true"}, // otherwise a rewritten branch passes for a newer one
		{"fetch.recurseSubmodules", "false"},
		{"fetch.writeCommitGraph", "false"},
		{"maintenance.auto", "false"},
		{"gc.auto", "0"},
		{"http.lowSpeedLimit", "1"}, // byte a second
		{"http.lowSpeedTime", "60"}, // seconds: a server that is silent so long is gone
	}
}

// git runs a command on this repository alone and returns its standard output.
func (l *Ledger) git(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	out, err := l.run(ctx, stdin, nil, nil, args...)
	return out, explainLock(err)
}

// id runs a command that answers with the name of an object.
func (l *Ledger) id(ctx context.Context, stdin []byte, env []string, args ...string) (string, error) {
	out, err := l.run(ctx, stdin, nil, env, args...)
	if err != nil {
		return "", explainLock(err)
	}
	id := strings.TrimSpace(string(out))
	if !isID(id) {
		return "", fault.New(fault.Environment, "running", "git "+args[0], "it answered %q, want the 40 hex digits of an object", id)
	}
	return id, nil
}

func (l *Ledger) run(ctx context.Context, stdin []byte, settings []setting, env []string, args ...string) ([]byte, error) {
	return tool.Output(ctx, tool.Command{
		Path: "git", Args: args, Stdin: bytes.NewReader(stdin),
		Env: slices.Concat(environment(l.dir), configuration(append(pins(), settings...)), env),
	}, fault.Environment)
}

// environment of every git: which repository, who commits, in which language it complains, and
// that it asks nobody. Replacements (git replace) would show another history than the remote's.
func environment(dir string) []string {
	return []string{
		"GIT_DIR=" + dir, "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_AUTHOR_NAME=containai", "GIT_AUTHOR_EMAIL=ledger@containai.invalid",
		"GIT_COMMITTER_NAME=containai", "GIT_COMMITTER_EMAIL=ledger@containai.invalid",
		"LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=",
	}
}

func configuration(settings []setting) []string {
	env := []string{fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings))}
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s.key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s.value))
	}
	return env
}

// resolve returns the commit that a ref of this repository shows, or "" when there is no such
// ref. A ref that is there and unreadable is an error: it must not pass for an empty ledger.
func (l *Ledger) resolve(ctx context.Context, ref string) (string, error) {
	id, err := l.id(ctx, nil, nil, "rev-parse", "--verify", "--quiet", ref)
	if tool.ExitCode(err) != 1 {
		return id, err
	}
	absent := fmt.Appendf(nil, "verify %s %s\n", ref, strings.Repeat("0", 40))
	if _, err := l.git(ctx, absent, "update-ref", "--no-deref", "--stdin"); err != nil {
		if id, again := l.id(ctx, nil, nil, "rev-parse", "--verify", "--quiet", ref); again == nil {
			return id, nil // it was made in between
		}
		return "", fault.Wrap(err, fault.Environment, "reading ledger", ref)
	}
	return "", nil
}

// has reports whether a commit is in this repository.
func (l *Ledger) has(ctx context.Context, id string) bool {
	_, err := l.git(ctx, nil, "cat-file", "-e", id+"^{commit}")
	return err == nil
}

// descends reports whether commit is ancestor or has it in its history.
func (l *Ledger) descends(ctx context.Context, commit, ancestor string) bool {
	_, err := l.git(ctx, nil, "merge-base", "--is-ancestor", ancestor, commit)
	return err == nil
}

// isID reports whether s is the full name of an object.
func isID(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 20 && s == strings.ToLower(s)
}
