package buildkit

import (
	"context"
	"os"
)

// Probe says which BuildKit Open would take, and starts none.
func Probe(ctx context.Context, o Options) (Kind, error) {
	return pick(host{
		builder: o.Builder, address: o.Host, root: os.Geteuid() == 0,
		docker: o.Builder == "" && hasDocker(ctx) && hasBuildx(ctx),
	})
}
