package tool

import (
	"context"
	"encoding/json"
	"os"

	"github.com/containai/containai/mage/fault"
)

// Module returns the directory where Go keeps a module's source at a version, and fetches it if it is
// not there: Go compares what it fetches with its checksum database. Work is a directory that belongs to
// no module, so that whoever imports us has no say in it.
func Module(ctx context.Context, work, path, version string) (string, error) {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", fault.Wrap(err, fault.Environment, "creating cache", work)
	}
	download := func(args ...string) Command {
		return Command{
			Path: "go", Args: append(append([]string{"mod", "download"}, args...), path+"@"+version), Dir: work,
			Env: []string{"GOFLAGS=", "GOWORK=off", "GO111MODULE=on", "PWD=" + work},
		}
	}
	if err := Run(ctx, download(), fault.Environment); err != nil { // with -json, its error would be no line for people
		return "", Program{Name: path, Version: version}.explain(err)
	}
	out, err := Output(ctx, download("-json"), fault.Environment)
	if err != nil {
		return "", err
	}
	var found struct{ Dir string }
	if err := json.Unmarshal(out, &found); err != nil || found.Dir == "" {
		return "", fault.New(fault.Environment, "fetching", path+" "+version, "go said %q", out)
	}
	return found.Dir, nil
}
