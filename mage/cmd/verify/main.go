// Command verify is the consumer's verifier: one static program that needs no login for public
// content, no builder, no scanner and no Go.
//
// It reads a family file, which says what the family is and whose signatures count, and asks a
// registry or an evidence file. Its exit statuses are those of docs/exit-codes.md. Releases carry it
// for linux/amd64 and linux/arm64 in the installer artifact, whose script runs it to install.
//
//	containai-verify channel -family containai.yaml -registry ghcr.io/containai prod
//	containai-verify image -family containai.yaml -registry ghcr.io/containai containai:prod
//	containai-verify offline -family containai.yaml evidence.tar
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	q := question{gitHub: cmp.Or(os.Getenv("GITHUB_API_URL"), "https://api.github.com"), now: time.Now(), out: os.Stdout, err: os.Stderr}
	err := q.run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = fault.Wrap(err, fault.Interrupted, "verifying", "")
	}
	os.Exit(explain(os.Stderr, err))
}

// question is what is asked on one command line.
type question struct {
	family        string // file that declares the family
	policy        string // file with a policy, instead of the family's; may be empty
	root          string // trusted_root.json; may be empty
	registry      string // host[:port]/owner
	state         string // directory of what is remembered
	allowRollback string // why an older channels document is accepted
	against       string // reference that an SBOM is compared with
	json          bool
	args          []string

	gitHub   string // GitHub's API
	now      time.Time
	out, err io.Writer
}

// command is one thing that can be asked, with the number of its arguments.
type command struct {
	run  func(*question, context.Context) error
	args int
}

func commands() map[string]command {
	return map[string]command{
		"channel": {(*question).channel, 1},
		"image":   {(*question).image, 1},
		"sbom":    {(*question).sbom, 1},
		"offline": {(*question).offline, 1},
		"fetch":   {(*question).fetch, 2},
	}
}

const usage = `usage: containai-verify COMMAND [flag…] ARGUMENT…

  channel NAME     everything a channel serves: signatures, provenance, SBOMs, lineage, tags
  image REF        one image, NAME:TAG or NAME@sha256:…, on every platform: its origin, not its currency
  sbom REF         an image's SBOMs, checked; -against REF shows what changed
  offline FILE     the channels of an evidence file, without a network
  fetch NAME DIR   what an installer takes: verifies it, then unpacks it into a new directory

`

// run parses a command line and does what it says. Flags may stand before and behind arguments.
func (q *question) run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("containai-verify", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&q.family, "family", "", "the family `file` (containai.yaml) that you trust")
	flags.StringVar(&q.policy, "policy", "", "a `file` with a policy: whose signatures count instead of the family file's; what that denies stays denied")
	flags.StringVar(&q.root, "trusted-root", "", "the trusted_root.json `file` of the policy's instance; the public one is built in")
	flags.StringVar(&q.registry, "registry", "", "`host[:port]/owner`; plain HTTP for loopback only")
	flags.StringVar(&q.state, "state", defaultState(), "`directory` that remembers the newest channels document")
	flags.StringVar(&q.allowRollback, "allowRollback", "", "`reason` why a channels document older than the last one is accepted")
	flags.StringVar(&q.against, "against", "", "the `reference` that an SBOM is compared with")
	flags.BoolVar(&q.json, "json", false, "one JSON document on standard output")

	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	c, known := commands()[name]
	for err := error(nil); ; {
		if err = flags.Parse(args); err != nil || !known {
			return q.misused(flags, name, err)
		}
		if flags.NArg() == 0 {
			break
		}
		q.args, args = append(q.args, flags.Arg(0)), flags.Args()[1:]
	}
	if len(q.args) != c.args {
		return q.misused(flags, name, fmt.Errorf("it takes %d arguments, not %d", c.args, len(q.args)))
	}
	return c.run(q, ctx)
}

// misused prints how the program is used; asking for that is no error.
func (q *question) misused(flags *flag.FlagSet, name string, err error) error {
	if err == nil {
		err = fmt.Errorf("there is no such command")
	}
	fmt.Fprint(q.err, usage)
	flags.SetOutput(q.err)
	flags.PrintDefaults()
	if err == flag.ErrHelp || name == "help" || name == "-h" || name == "--help" || name == "-help" {
		return nil
	}
	return fault.Wrap(err, fault.Invalid, "running", fmt.Sprintf("%q", name))
}

func defaultState() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "containai")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "state", "containai")
}

// print writes an answer: JSON for scripts on standard output, text for people on standard error.
func (q *question) print(value any, text func() string) error {
	if !q.json {
		_, err := fmt.Fprint(q.err, text())
		return err
	}
	content, err := json.MarshalIndent(value, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(q.out, "%s\n", content)
	}
	return err
}

// explain prints what went wrong and returns the exit status.
func explain(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	text, status := term.Explain(err, nil)
	fmt.Fprintln(w, "Error:", text)
	return status
}
