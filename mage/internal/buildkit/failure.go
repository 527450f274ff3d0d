package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/tool"
)

// failure is what Buildx told about a build that did not succeed.
type failure struct {
	Image    string // bake target; may be empty
	Platform string // empty when the build has one platform
	Step     string // "2/7 RUN make"; empty when no step had begun
	Where    string // "Dockerfile:12"; may be empty
	Cause    string // BuildKit's own last words
	Output   string // the end of the failed step's output
}

// Error prints one paragraph: where, what, why, and the last lines of output, without what looks like
// a secret.
func (f *failure) Error() string {
	var s strings.Builder
	for _, part := range []string{f.Where, f.Step, f.Cause} {
		if part == "" {
			continue
		}
		if s.Len() > 0 {
			s.WriteString(": ")
		}
		s.WriteString(part)
	}
	if f.Output != "" {
		s.WriteString("\n    " + strings.ReplaceAll(strings.TrimSpace(f.Output), "\n", "\n    "))
	}
	return evidence.HideSecrets(s.String())
}

var (
	whereGrammar = lazyregexp.New(`^(\S+):([0-9]+)$`)
	errorGrammar = lazyregexp.New(`^ERROR: (?:target (\S+): )?(?:failed to solve: )?(.*)$`)
)

// outputLines is how many lines of a failed step an error quotes.
const outputLines = 12

// failure reads the failed step and Buildx's closing words:
//
//	Dockerfile:2
//	--------------------
//	   2 | >>> RUN false
//	--------------------
//	ERROR: target app: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1
func (m *meter) failure() *failure {
	f := &failure{Platform: m.platform}
	for _, line := range m.words {
		if whereGrammar.MatchString(line) {
			f.Where = line
		}
		if parts := errorGrammar.FindStringSubmatch(line); parts != nil {
			f.Image, f.Cause = parts[1], parts[2]
		}
	}
	if f.Cause == "" {
		f.Cause = strings.Join(m.words[max(0, len(m.words)-outputLines):], "\n    ")
	}
	if s := m.failed; s != nil {
		f.Step, f.Platform = s.text, cmp.Or(s.platform, m.platform)
		if f.Image == "" {
			f.Image = s.image
		}
		lines := strings.Split(strings.TrimRight(string(s.output), "\n"), "\n")
		f.Output = strings.Join(lines[max(0, len(lines)-outputLines):], "\n")
	}
	return f
}

// diskHint is the way out of a full disk.
const diskHint = "the disk is full: `df -h` shows which one; `mage local:reset` gives back the build cache"

// explain turns a failed Buildx call into an error for a person.
func (b *Builder) explain(ctx context.Context, err error, f *failure) error {
	if kind, _ := fault.KindOf(err); kind != fault.BuildFailed {
		return err // interrupted, or Buildx is missing
	}
	var exit *tool.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	subject := strings.TrimSpace(f.Image + " " + f.Platform)
	text := f.Cause + f.Output
	switch {
	case strings.Contains(text, "no space left on device"):
		return (&fault.Error{Op: "building", Subject: subject, Kind: fault.Environment, Err: f}).WithHint(diskHint)
	case daemonLost(f.Cause):
		return b.lost(ctx, &fault.Error{Op: "building", Subject: subject, Kind: fault.Unavailable, Err: f})
	}
	return &fault.Error{Op: "building", Subject: subject, Kind: fault.BuildFailed, Err: f}
}

// daemonLost recognises gRPC's words for a connection that ended.
func daemonLost(text string) bool {
	return strings.Contains(text, "error reading from server: ") || strings.Contains(text, "closing transport") ||
		strings.Contains(text, "connect: connection refused") && (strings.Contains(text, "dial unix") || strings.Contains(text, "dial tcp"))
}

// lost says which BuildKit went away, and how to go on.
func (b *Builder) lost(ctx context.Context, e *fault.Error) error {
	if b.kind == Embedded {
		return e.WithHint("BuildKit went away during the build (its log: %s); run the same command again", b.state("daemon.log"))
	}
	if found, err := b.listed(ctx); err == nil {
		if n, ok := absent(found.Nodes); ok {
			e.Err = fmt.Errorf("%s went away: %w", n, e.Err)
			return e.WithHint("start BuildKit on node %s again, then run the same command: what was built there is in its cache", n.Name)
		}
	}
	return e.WithHint("BuildKit went away during the build; run the same command again")
}
