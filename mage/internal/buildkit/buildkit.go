// Package buildkit builds a family's images into an OCI layout and runs commands inside them.
//
// [Open] chooses a BuildKit — an explicit Buildx builder, Docker, $BUILDKIT_HOST or the embedded
// daemon, in this order — and returns a [Builder]. [Builder.Build] bakes the whole family in one
// solve, [Builder.Smoke] runs a cell's smoke tests, [Load] hands images to a Docker engine.
// Invariant: what Build returns was read back from BuildKit's layouts, checked against its
// digests, and every image's layers begin with those of its declared parent.
package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Options say where things are. State, Cache and Now are required.
type Options struct {
	State     string           // private directory of this repository's runs; BuildKit's cache lies below it
	Cache     string           // the user's cache, shared by all repositories: programs, OS bases
	Builder   string           // Buildx builder that exists already ($CONTAINAI_BUILDER)
	Host      string           // address of a BuildKit ($BUILDKIT_HOST)
	Engine    string           // BuildKit image for Docker, pinned by digest; empty means our own choice
	CA        string           // PEM bundle given to build steps as secret "ca"; empty gives none
	Keep      int64            // bytes the embedded BuildKit may keep as cache; 0 means 20 GB
	Idle      time.Duration    // how long the embedded BuildKit waits for more to do before it ends; 0 means a minute
	Platforms []string         // what will be built: an embedded BuildKit that cannot is refused before it is made
	Shared    SharedCache      // a build cache beside the builder's own; the zero value is none
	Environ   []string         // this process's environment: no build argument may hold a secret of it
	Binfmt    string           // where the kernel lists emulators; empty is binfmt_misc's usual place
	Compress  Compress         // how layers are released
	Now       func() time.Time // decides which day's OS base is used
	Progress  func(Event)      // may be nil; called from one goroutine at a time
}

// defaultKeep is how much build cache stays on disk, in bytes.
const defaultKeep = 20_000_000_000

// Event is one calm line of progress. A notice has only Step.
type Event struct {
	Image    string // bake target; empty for notices
	Platform string // empty when the build has one platform
	Step     string // "2/7 RUN apt-get update"
	Finished bool   // the step ended; otherwise it began
	Cached   bool   // it did not have to run
	Done     int    // steps that ended so far
	Total    int    // steps known so far; grows while Dockerfiles are read
}

// Builder is an open BuildKit. It is used by one goroutine at a time and must be closed.
type Builder struct {
	options   Options
	kind      Kind
	buildx    command // docker buildx, or our own binary
	name      string  // Buildx builder
	nodes     []node
	platforms []string
	tools     map[string]string
	daemon    embedded
	closers   []func() error
	opened    time.Time // decides the day's OS base, one for all that is built
}

// Open makes a BuildKit ready. It waits while another process uses the same state directory,
// and reaps what a killed one left there.
//
// Errors: fault.Environment when no BuildKit can be had; the hint says how to get one.
func Open(ctx context.Context, o Options) (*Builder, error) {
	if o.State == "" || o.Cache == "" || o.Compress == nil || o.Now == nil {
		return nil, fault.New(fault.Invalid, "opening", "BuildKit", "it needs a state directory, a cache directory, a compressor and a clock")
	}
	if o.Engine != "" && !strings.Contains(o.Engine, "@sha256:") {
		return nil, fault.New(fault.Invalid, "opening", "BuildKit", "the image %s must be pinned: add @sha256:…", o.Engine)
	}
	for _, dir := range []*string{&o.State, &o.Cache} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fault.Wrap(err, fault.Environment, "resolving", *dir)
		}
		*dir = abs
	}
	b := &Builder{options: o.withDefaults(), opened: o.Now()}
	if err := b.open(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Builder) open(ctx context.Context) error {
	if err := b.takeState(ctx); err != nil {
		return err
	}
	b.closers = append(b.closers, b.daemon.close)
	if err := b.choose(ctx); err != nil {
		return err
	}
	defer b.daemon.rest(b.options.Idle)
	return b.inspect(ctx)
}

// Close ends the embedded daemon, if this is one, and releases the state directory.
func (b *Builder) Close() error {
	var first error
	for len(b.closers) > 0 {
		last := len(b.closers) - 1
		if err := b.closers[last](); err != nil && first == nil {
			first = err
		}
		b.closers = b.closers[:last]
	}
	return first
}

// Kind says which BuildKit was chosen.
func (b *Builder) Kind() Kind { return b.kind }

// Platforms returns what the builder can run, natively or emulated.
func (b *Builder) Platforms() []string { return b.platforms }

// Tools returns the versions that decide the bytes: buildkit and buildx.
func (b *Builder) Tools() map[string]string { return maps.Clone(b.tools) }

func (o Options) withDefaults() Options {
	if o.Keep == 0 {
		o.Keep = defaultKeep
	}
	if o.Idle == 0 {
		o.Idle = defaultIdle
	}
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	if o.Engine == "" {
		o.Engine = engineImage
	}
	return o
}

// takeState makes this process the only user of the state directory and clears what earlier
// runs left in its temporary part.
func (b *Builder) takeState(ctx context.Context) error {
	if err := os.MkdirAll(b.state(), 0o700); err != nil {
		return fault.Wrap(err, fault.Environment, "creating state directory", b.state())
	}
	unlock, err := tool.Lock(ctx, b.state("lock"), func() { b.notice("waiting for another run that uses " + b.options.State) })
	if err != nil {
		return err
	}
	b.closers = append(b.closers, func() error { unlock(); return nil })
	if err := os.RemoveAll(b.state("tmp")); err != nil {
		return fault.Wrap(err, fault.Environment, "clearing", b.state("tmp"))
	}
	return fault.Wrap(os.MkdirAll(b.state("tmp"), 0o700), fault.Environment, "creating", b.state("tmp"))
}

// tempDir makes a directory that the caller removes; the next run removes it otherwise.
func (b *Builder) tempDir(name string) (string, error) {
	dir, err := os.MkdirTemp(b.state("tmp"), name+"-")
	return dir, fault.Wrap(err, fault.Environment, "creating", "temporary directory")
}

// state returns a path below BuildKit's part of the state directory.
func (b *Builder) state(parts ...string) string {
	return filepath.Join(append([]string{b.options.State, "buildkit"}, parts...)...)
}

func (b *Builder) notice(line string) { b.options.Progress(Event{Step: line}) }

// programs is where programs built on demand are kept.
func (b *Builder) programs() string { return filepath.Join(b.options.Cache, "programs") }

// shortHash names something by what it is: 8 hex digits.
func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
