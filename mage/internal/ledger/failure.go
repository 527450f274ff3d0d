package ledger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
)

// purpose is what a command wants of the remote, and with it the permission that it needs.
type purpose string

const (
	reading purpose = "reading ledger"
	writing purpose = "appending to ledger"
)

// What git and the servers behind it say, in English (LC_ALL=C). There are no exit codes for it.
var (
	denied = lazyregexp.New(`(?i)returned error: 40[13]\b|HTTP 40[13]\b|authentication failed|could not read (username|password)|` +
		`permission (to \S+ )?denied|write access to repository not granted|access denied|service not enabled|` +
		`protected branch|GH006|GH013|rule violations|hook declined|insufficient permission|unpacker error`)
	unreachable = lazyregexp.New(`(?i)could not resolve|temporary failure in name resolution|failed to connect|couldn't connect|unable to connect|` +
		`connection (refused|reset|timed out|closed)|network is unreachable|no route to host|timed out|returned error: (408|429|5\d\d)\b|HTTP (408|429|5\d\d)\b|` +
		`early EOF|hung up|unexpected disconnect|empty reply|too slow|transfer closed|failed to update ref|cannot lock ref`)
	locked   = lazyregexp.New(`Unable to create '([^'\n]+\.lock)': File exists`)
	userinfo = lazyregexp.New(`://[^/@\s']*@`)
)

// failed is a git command that ended with an error, and what it may say in public.
type failed struct {
	text string
	exit error
}

func (f *failed) Error() string { return f.text }
func (f *failed) Unwrap() error { return f.exit }

// permission is a failure that only somebody with other rights can undo.
type permission struct{ error }

func (p permission) Unwrap() error { return p.error }

// isDenied reports whether the remote refused because of who asked.
func isDenied(err error) bool {
	var p permission
	return errors.As(err, &p)
}

// explain classifies the failure of a command that talked to the remote: missing permission is
// fault.Environment, a network that failed is fault.Unavailable, and what nobody recognizes is
// fault.Environment, because somebody has to look at it.
func (l *Ledger) explain(err error, p purpose) error {
	var exit *tool.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	text := l.remote.credentials.sanitize(exit.Tail)
	f := &fault.Error{Op: string(p), Subject: l.remote.name + " " + l.ref, Kind: fault.Environment, Err: &failed{text, exit.Err}}
	switch {
	case denied.MatchString(text):
		f.Err = permission{f.Err}
		f.Hint = l.permissionHint(p)
	case unreachable.MatchString(text):
		f.Kind, f.Hint = fault.Unavailable, "when the remote answers, run the same command again"
	}
	return f
}

func (l *Ledger) permissionHint(p purpose) string {
	if p == reading {
		return "the job needs `permissions: contents: read` in GitHub Actions; elsewhere, git credentials that may read " + l.remote.name
	}
	return fmt.Sprintf("the job needs `permissions: contents: write` in GitHub Actions; elsewhere, git credentials that may push to %s; "+
		"and the rules of the repository must let this identity push to %s", l.remote.name, l.remote.branch)
}

// sanitize returns the lines without secrets and without what a terminal would obey: part of
// them was written by the server.
func (c Credentials) sanitize(lines []string) string {
	text := userinfo.ReplaceAllString(strings.Join(lines, "\n"), "://")
	if c.Token != "" {
		text = strings.NewReplacer(c.basic(), "***", c.Token, "***").Replace(text)
	}
	return strings.ReplaceAll(term.EscapeLines(text), "\n", "\n    ")
}

// explainLock says which file a killed git left behind.
func explainLock(err error) error {
	var exit *tool.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	at := locked.FindStringSubmatch(strings.Join(exit.Tail, "\n"))
	if at == nil {
		return err
	}
	return fault.New(fault.Environment, "waiting for", at[1], "another git holds it, or was killed while it did: %w", exit.Err).
		WithHint("when no git is running on this repository: rm %s", at[1])
}
