package sigstore

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Claims is what the local issuer says about a run. The issuer, the builder and the run's name are
// the helper's own and cannot be given.
type Claims struct {
	Repository string `json:"repository"`      // URL of the source repository
	Ref        string `json:"ref"`             // refs/heads/main
	Commit     string `json:"commit"`          // 40 hex digits
	Workflow   string `json:"workflow"`        // path in the repository of what defines the build
	Dirty      string `json:"dirty,omitempty"` // 8 hex digits when the work tree differs from the commit

	// FileUnsafe names a file of claims that replaces all the above, even the issuer: rehearsals of
	// GitHub's identities need it, releases must not.
	FileUnsafe string `json:"-"`
}

// Local is a running Sigstore of this machine.
type Local struct {
	Services Services
	TokenURL string // as $ACTIONS_ID_TOKEN_REQUEST_URL of a job
	Bearer   string // as $ACTIONS_ID_TOKEN_REQUEST_TOKEN of a job
	cmd      *exec.Cmd
	stdin    *os.File
	left     chan error // the helper's exit, once
}

// startLimit is how long the helper may take to be ready; it needs less than a second.
const startLimit = 30 * time.Second

// StartLocal runs the helper, whose keys, log and trusted root live in dir, until the context ends or
// Close is called. A directory that another run is using is fault.Conflict.
func StartLocal(ctx context.Context, helper, dir string, claims Claims) (*Local, error) {
	line, err := json.Marshal(claims)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "encoding", "claims")
	}
	log := &tail{}
	l, stdout, err := launch(ctx, helper, dir, claims.FileUnsafe, log)
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	ready, err := l.await(ctx, append(line, '\n'), stdout)
	if err != nil {
		return nil, l.explain(ctx, err, dir, log)
	}
	l.TokenURL, l.Bearer = ready.TokenURL, ready.Token
	l.Services = Services{
		Instance: family.Local, TrustedRoot: ready.TrustedRoot, SigningConfig: ready.SigningConfig,
		Token: ActionsToken(ready.TokenURL, ready.Token),
	}
	return l, nil
}

// Close ends the helper and waits for it.
func (l *Local) Close() error {
	_ = l.stdin.Close()
	select {
	case err := <-l.left:
		return fault.Wrap(err, fault.Environment, "stopping", "local Sigstore")
	case <-time.After(startLimit):
		_ = l.cmd.Process.Kill()
		<-l.left //nolint:errcheck // it says how it was killed
		return fault.New(fault.Environment, "stopping", "local Sigstore", "it did not end within %v", startLimit)
	}
}

// launch starts the helper with a pipe at each end: it ends when its standard input does, so also
// when this process is killed.
func launch(ctx context.Context, helper, dir, claimsFile string, log io.Writer) (*Local, *os.File, error) {
	args := []string{"--dir", dir}
	if claimsFile != "" {
		args = append(args, "--claims", claimsFile)
	}
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, fault.Wrap(err, fault.Environment, "starting", helper)
	}
	defer childIn.Close()
	stdout, childOut, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, nil, fault.Wrap(err, fault.Environment, "starting", helper)
	}
	defer childOut.Close()
	cmd, err := tool.Start(ctx, tool.Command{Path: helper, Args: args, Stdin: childIn}, childOut, log)
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, nil, err
	}
	l := &Local{cmd: cmd, stdin: stdin, left: make(chan error, 1)}
	go func() {
		l.left <- cmd.Wait()
		close(l.left) // a second Close finds nothing to do
	}()
	return l, stdout, nil
}

// readyLine is the helper's one line on standard output.
type readyLine struct {
	TrustedRoot   string `json:"trustedRoot"`
	SigningConfig string `json:"signingConfig"`
	TokenURL      string `json:"tokenURL"`
	Token         string `json:"token"`
}

// await tells the helper the claims and reads its line; the end of the context or of the time ends
// the reading.
func (l *Local) await(ctx context.Context, line []byte, stdout *os.File) (readyLine, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	release := context.AfterFunc(ctx, func() { _ = stdout.SetReadDeadline(time.Unix(1, 0)) })
	defer release()
	if _, err := l.stdin.Write(line); err != nil {
		return readyLine{}, err
	}
	said, err := bufio.NewReader(io.LimitReader(stdout, maxToken)).ReadBytes('\n')
	if err != nil {
		return readyLine{}, err
	}
	var ready readyLine
	if err := json.Unmarshal(said, &ready); err != nil {
		return readyLine{}, err
	}
	if ready.TrustedRoot == "" || ready.SigningConfig == "" || ready.TokenURL == "" || ready.Token == "" {
		return readyLine{}, errors.New("its ready line is incomplete")
	}
	return ready, nil
}

// explain ends a helper that did not get ready and says why, by its exit code and last words. The
// codes are those of the exit table.
func (l *Local) explain(ctx context.Context, cause error, dir string, log *tail) error {
	_ = l.stdin.Close()
	_ = l.cmd.Process.Kill() // no-op when it left by itself, and then the exit code is its own
	exit := <-l.left
	kind := fault.Kind(tool.ExitCode(exit))
	switch {
	case ctx.Err() != nil:
		return fault.Wrap(context.Cause(ctx), fault.Interrupted, "starting", "local Sigstore")
	case kind == fault.Conflict:
		return fault.New(fault.Conflict, "starting", "local Sigstore", "another run is using %s", filepath.Clean(dir)).
			WithHint("wait for that run to end, or give this one a state directory of its own: CONTAINAI_STATE=…")
	case kind != fault.Invalid:
		kind = fault.Environment
	}
	return fault.New(kind, "starting", "local Sigstore", "%w; it said: %s", cause, log)
}

// tail keeps the last words of a program, for errors.
type tail struct {
	mu   sync.Mutex
	last []byte
}

// maxTail is how much is kept, in bytes.
const maxTail = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-maxTail):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last)
}
