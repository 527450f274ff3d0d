package buildkit

import (
	_ "embed"
	"time"

	"github.com/containai/containai/mage/internal/tool"
)

// Versions of the programs that are built on demand; their modules are pinned in tools/.
const (
	BuildKitVersion = "0.34.2"
	BuildxVersion   = "0.38.2"
)

// engineImage is the BuildKit that a Docker engine runs for us. A registry has to be asked for
// the digest, so it moves on its own and may lag behind BuildKitVersion.
const engineImage = "moby/buildkit:v0.34.0@sha256:b059f8d7226d0b326bc871af489a5dddf65e36af4d20d14251b072974d9ee87c"

// The scratch modules: each repeats the exclude directives of the program's own go.mod, which
// `go install package@version` would refuse.
var (
	//go:embed tools/buildkit.mod
	buildkitMod []byte
	//go:embed tools/buildkit.sum
	buildkitSum []byte
	//go:embed tools/buildx.mod
	buildxMod []byte
	//go:embed tools/buildx.sum
	buildxSum []byte
)

// Daemon is the BuildKit daemon, measured at 3 minutes on two cores with an empty Go cache.
func Daemon() tool.Program {
	return tool.Program{
		Name: "buildkitd", Version: BuildKitVersion, Package: "github.com/moby/buildkit/cmd/buildkitd",
		Mod: buildkitMod, Sum: buildkitSum, Stamp: "github.com/moby/buildkit/version.Version", Estimate: 4 * time.Minute,
	}
}

// Buildx is BuildKit's command line, measured at 70 seconds after the daemon.
func Buildx() tool.Program {
	return tool.Program{
		Name: "buildx", Version: BuildxVersion, Package: "github.com/docker/buildx/cmd/buildx",
		Mod: buildxMod, Sum: buildxSum, Stamp: "github.com/docker/buildx/version.Version", Estimate: 2 * time.Minute,
	}
}
