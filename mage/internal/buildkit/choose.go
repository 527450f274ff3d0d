package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// Kind is where a BuildKit comes from.
type Kind string

// The kinds, in order of choice.
const (
	Explicit Kind = "explicit" // the builder that Options.Builder names
	Docker   Kind = "docker"   // a docker-container builder of the local Docker engine
	Remote   Kind = "remote"   // Options.Host
	Embedded Kind = "embedded" // our own daemon
)

// command is how Buildx is started: a program, the words before its own, its environment.
type command struct {
	path string
	args []string
	env  []string
}

// host is what the choice depends on.
type host struct {
	builder, address string // Options.Builder, Options.Host
	docker           bool   // a Docker engine answers, and its client has Buildx
	root             bool   // the embedded daemon may run
}

// Choice is the BuildKit that a build takes, and why.
type Choice struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name,omitempty"` // an explicit builder's, or the address of a remote BuildKit
	Why  string `json:"why"`
}

// pick decides; it is the order of choice and nothing else.
func pick(h host) (Choice, error) {
	switch {
	case h.builder != "":
		return Choice{Explicit, h.builder, "CONTAINAI_BUILDER names it"}, nil
	case h.docker:
		return Choice{Docker, "", "CONTAINAI_BUILDER is not set, and a Docker engine with Buildx answers"}, nil
	case h.address != "":
		return Choice{Remote, h.address, "CONTAINAI_BUILDER is not set, no Docker engine answers, and BUILDKIT_HOST is set"}, nil
	case h.root:
		return Choice{Embedded, "", "CONTAINAI_BUILDER and BUILDKIT_HOST are not set, no Docker engine answers, and root may run it here"}, nil
	}
	return Choice{}, fault.New(fault.Environment, "looking for", "BuildKit", "no Docker engine answers, CONTAINAI_BUILDER and BUILDKIT_HOST are not set, and only root may run the embedded one").
		WithHint(`run one of these, then the same command again:
  sudo systemctl start docker && sudo usermod -aG docker "$USER" && newgrp docker   # Docker on this machine
  export BUILDKIT_HOST=tcp://HOST:PORT                                              # a BuildKit that runs elsewhere
  sudo --preserve-env env "PATH=$PATH" mage build:all                               # the embedded BuildKit, as root`)
}

// Choose says which BuildKit Open would take, and starts none.
func Choose(ctx context.Context, o Options) (Choice, error) {
	return pick(host{
		builder: o.Builder, address: o.Host, root: os.Geteuid() == 0,
		docker: o.Builder == "" && hasDocker(ctx) && hasBuildx(ctx),
	})
}

func (b *Builder) choose(ctx context.Context) error {
	o := b.options
	choice, err := Choose(ctx, o)
	if err != nil {
		return err
	}
	b.kind = choice.Kind
	for _, platform := range o.Platforms {
		if err := b.host().check(platform); b.kind == Embedded && err != nil {
			return err
		}
	}
	if err := b.findBuildx(ctx); err != nil {
		return err
	}
	switch b.kind {
	case Explicit:
		b.name = o.Builder
		return nil
	case Docker:
		return b.createBuilder(ctx, "docker-container", "--driver-opt", "image="+o.Engine, "--buildkitd-flags", "--oci-worker-gc-keepstorage="+keepMegabytes(o.Keep))
	case Remote:
		return b.createBuilder(ctx, "remote", o.Host)
	}
	address, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	return b.createBuilder(ctx, "remote", address)
}

// engineTime is how long a Docker engine may take to answer.
const engineTime = 10 * time.Second

// hasDocker asks the engine; a client without an engine does not count.
func hasDocker(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	return tool.Find("docker") != "" && tool.Run(ctx, tool.Command{Path: "docker", Args: []string{"info"}}, fault.Environment) == nil
}

func hasBuildx(ctx context.Context) bool {
	return tool.Find("docker") != "" && tool.Run(ctx, tool.Command{Path: "docker", Args: []string{"buildx", "version"}}, fault.Environment) == nil
}

// findBuildx prefers the Buildx of Docker's client when Docker or an explicit builder is used,
// since that is who knows them. Our builders live in a configuration of our own.
func (b *Builder) findBuildx(ctx context.Context) error {
	var env []string
	if b.kind != Explicit {
		env = []string{"BUILDX_CONFIG=" + b.state("buildx")}
	}
	if b.kind == Docker || b.kind == Explicit && hasBuildx(ctx) {
		b.buildx = command{path: "docker", args: []string{"buildx"}, env: env}
		return nil
	}
	path, err := Buildx().Build(ctx, b.programs(), b.notice)
	b.buildx = command{path: path, env: env}
	return err
}

// createBuilder makes a Buildx builder named after what it is, unless it is there.
func (b *Builder) createBuilder(ctx context.Context, driver string, args ...string) error {
	b.name = "containai-" + shortHash(driver+" "+strings.Join(args, " "))
	if _, err := b.listed(ctx); err == nil {
		return nil
	}
	create := append([]string{"create", "--name", b.name, "--driver", driver}, args...)
	return tool.Run(ctx, b.buildxCommand(create...), fault.Environment)
}

func (b *Builder) buildxCommand(args ...string) tool.Command {
	return tool.Command{Path: b.buildx.path, Args: slices.Concat(b.buildx.args, args), Env: b.buildx.env}
}

// listing is one line of `buildx ls --format json`.
type listing struct {
	Name  string
	Nodes []node
}

// inspect starts the builder where that is needed and learns what it is.
func (b *Builder) inspect(ctx context.Context) error {
	said := tool.Run(ctx, b.buildxCommand("inspect", "--bootstrap", b.name), fault.Environment)
	if ctx.Err() != nil {
		return said
	}
	found, err := b.listed(ctx)
	if err != nil {
		return err
	}
	if n, ok := absent(found.Nodes); ok {
		return b.silent(n, said)
	}
	if said != nil {
		return fault.Wrap(said, fault.Environment, "starting builder", b.name)
	}
	version, err := tool.Output(ctx, b.buildxCommand("version"), fault.Environment)
	if err != nil {
		return err
	}
	buildkit, err := commonVersion(found.Nodes)
	if err != nil {
		return err
	}
	b.tools = map[string]string{"buildkit": buildkit, "buildx": buildxVersion(string(version))}
	b.nodes = found.Nodes
	for _, node := range found.Nodes {
		b.platforms = append(b.platforms, node.Platforms...)
	}
	slices.Sort(b.platforms)
	b.platforms = slices.Compact(b.platforms)
	return nil
}

// listed returns what Buildx knows about our builder.
func (b *Builder) listed(ctx context.Context) (listing, error) {
	out, err := tool.Output(ctx, b.buildxCommand("ls", "--format", "json"), fault.Environment)
	if err != nil {
		return listing{}, err
	}
	return parseListing(out, b.name)
}

// parseListing finds one builder in the lines of `buildx ls --format json`.
func parseListing(out []byte, name string) (listing, error) {
	for line := range bytes.Lines(out) {
		var l listing
		if err := json.Unmarshal(line, &l); err != nil {
			return listing{}, fault.Wrap(err, fault.Environment, "reading", "buildx ls")
		}
		if strings.TrimSuffix(l.Name, "*") == name {
			return l, nil
		}
	}
	return listing{}, fault.New(fault.Environment, "looking for builder", name, "buildx does not list it").
		WithHint("`docker buildx ls` shows the builders; unset CONTAINAI_BUILDER to let containai choose")
}

// buildxVersion reads "github.com/docker/buildx v0.38.2 revision".
func buildxVersion(s string) string {
	fields := strings.Fields(s)
	if len(fields) < 2 {
		return "unknown"
	}
	return strings.TrimPrefix(fields[1], "v")
}
