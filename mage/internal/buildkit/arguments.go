package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/tool"
)

// arguments returns the build arguments of every target by name, as the bake file gives them. Its
// variables take values from the environment, so it is read twice, the first time with hardly any:
// an argument that is another one in this process's environment is not what the commit says, and
// is refused, because nobody who reads the provenance could know it.
func (b *Builder) arguments(ctx context.Context, r Request, images []string) (map[string]map[string]string, error) {
	print := b.buildxCommand(append([]string{"bake", "--print", "--file", filepath.Join(r.Root, filepath.FromSlash(r.Plan.Family.Bake))}, images...)...)
	print.Dir, print.Env = r.Root, append(slices.Clone(print.Env), epoch(r))
	found, err := resolve(ctx, print)
	if err != nil {
		return nil, err
	}
	print.Bare, print.Env = true, append(print.Env, whereThingsAre()...)
	declared, err := resolve(ctx, print)
	if err != nil {
		return nil, err
	}
	return declared, checkArguments(declared, found)
}

// epoch is the one variable that a build sets: it is the commit's.
func epoch(r Request) string {
	return fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.Plan.Source.Epoch.Unix())
}

// whereThingsAre is what Docker's client needs to find its plugin.
func whereThingsAre() []string {
	return slices.DeleteFunc(tool.Base(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name != "PATH" && name != "HOME" && name != "DOCKER_CONFIG"
	})
}

func resolve(ctx context.Context, print tool.Command) (map[string]map[string]string, error) {
	out, err := tool.Output(ctx, print, fault.BuildFailed)
	if err != nil {
		return nil, err
	}
	var bake struct {
		Target map[string]struct {
			Args map[string]string `json:"args"`
		} `json:"target"`
	}
	if err := json.Unmarshal(out, &bake); err != nil {
		return nil, fault.Wrap(err, fault.BuildFailed, "reading", "bake file")
	}
	arguments := map[string]map[string]string{}
	for name, target := range bake.Target {
		arguments[name] = target.Args
	}
	return arguments, nil
}

// checkArguments refuses what the commit does not say and what must not be told. It names
// arguments and never their values.
func checkArguments(declared, found map[string]map[string]string) error {
	for _, target := range slices.Sorted(maps.Keys(found)) {
		for _, name := range slices.Sorted(maps.Keys(found[target])) {
			value := found[target][name]
			if want, ok := declared[target][name]; !ok || want != value {
				return fault.New(fault.Refused, "building", target, "the environment changes its build argument %s", name).
					WithHint("unset the variable, or write the value into the bake file and commit it")
			}
			if secretName.MatchString(name) && value != "" || secretValue.MatchString(value) {
				return fault.New(fault.Refused, "building", target, "its build argument %s looks like a secret", name).
					WithHint("arguments stay in the image's history and in its provenance: give it with RUN --mount=type=secret")
			}
		}
	}
	return nil
}

// What looks like a secret: by the name of the argument, or by the form that its issuer gives it.
var (
	secretName  = regexp.MustCompile(`(?i)(^|[_-])(token|secret|passwords?|passwd|api_?key|private_?key|credentials?)($|[_-])`)
	secretValue = regexp.MustCompile(strings.Join([]string{
		`gh[pousr]_[A-Za-z0-9]{36}`, `github_pat_[A-Za-z0-9_]{22}`, // GitHub
		`glpat-[A-Za-z0-9_-]{20}`,       // GitLab
		`npm_[A-Za-z0-9]{36}`,           // npm
		`\b(AKIA|ASIA)[A-Z0-9]{16}\b`,   // AWS
		`xox[abprs]-[A-Za-z0-9-]{10}`,   // Slack
		`\bsk-[A-Za-z0-9_-]{20}`,        // OpenAI, Anthropic
		`\beyJ[A-Za-z0-9_-]{8,}\.eyJ`,   // a JSON web token
		`-----BEGIN [A-Z ]*PRIVATE KEY`, // PEM
		`://[^/\s:@]+:[^/\s@]+@`,        // a URL with a password
	}, "|"))
)
