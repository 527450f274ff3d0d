package tool

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// Need is a program of the host and the Debian package that brings it.
type Need struct {
	Binary  string // "runc"
	Package string // "runc"
}

// EnsureHost makes sure that the programs are there. Root on Debian gets the missing ones from
// the machine's own mirror; everybody else gets a fault.Environment whose hint is the command.
func EnsureHost(ctx context.Context, needs []Need, progress func(line string)) error {
	return ensureHost(ctx, needs, os.Geteuid() == 0 && Find("apt-get") != "", progress)
}

func ensureHost(ctx context.Context, needs []Need, mayInstall bool, progress func(string)) error {
	var missing, packages []string
	for _, need := range needs {
		if Find(need.Binary) == "" {
			missing = append(missing, need.Binary)
			packages = append(packages, need.Package)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(packages)
	packages = slices.Compact(packages)
	if !mayInstall {
		return fault.New(fault.Environment, "looking for", strings.Join(missing, ", "), "not installed").
			WithHint("sudo apt-get update && sudo apt-get install -y --no-install-recommends %s", strings.Join(packages, " "))
	}
	if progress != nil {
		progress("installing " + strings.Join(packages, ", ") + " from the Debian mirror")
	}
	return aptInstall(ctx, packages)
}

// aptInstall refreshes the package lists and installs; it waits for another apt up to 2 minutes.
func aptInstall(ctx context.Context, packages []string) error {
	options := []string{"-q", "-o", "DPkg::Lock::Timeout=120"}
	install := slices.Concat(options, []string{"install", "-y", "--no-install-recommends"}, packages)
	for _, args := range [][]string{append(slices.Clone(options), "update"), install} {
		err := Run(ctx, Command{Path: "apt-get", Args: args, Env: []string{"DEBIAN_FRONTEND=noninteractive"}}, fault.Environment)
		if err != nil {
			return &fault.Error{Op: "installing", Subject: strings.Join(packages, " "), Kind: fault.Environment, Err: err,
				Hint: "apt-get update && apt-get install -y --no-install-recommends " + strings.Join(packages, " ")}
		}
	}
	return nil
}

// Find returns the path of a program of the host, or "". Beyond PATH it looks where Debian puts
// the programs for root, which other users often have not in their PATH.
func Find(binary string) string {
	if path, err := exec.LookPath(binary); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, binary)); err == nil {
			return path
		}
	}
	return ""
}
