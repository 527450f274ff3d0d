package buildkit

import (
	"bytes"
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// epoch is the one variable that a build sets, SOURCE_DATE_EPOCH: the latest time that anything in a built
// layer shows, one second into 1980, which archives of all kinds can say. It is no commit's. BuildKit sets
// back what is later and leaves what is earlier: by a commit's time, what a cache or a work tree holds from
// before the commit would show other times than a cold build from a fresh checkout.
const epoch = "SOURCE_DATE_EPOCH=315532801"

// whereThingsAre is what Docker's client needs to find its plugin. A bake file may have variables of these
// names, too: the values lead to the same places as the environment's, and are never the same.
func whereThingsAre(environ []string) []string {
	is := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		is[name] = value
	}
	docker := cmp.Or(is["DOCKER_CONFIG"], filepath.Join(is["HOME"], ".docker"))
	return []string{"PATH=" + is["PATH"] + ":/usr/bin", "HOME=/nonexistent", "DOCKER_CONFIG=" + docker + "/."}
}

// argumentsOf returns the build arguments of every target.
func argumentsOf(targets map[string]printed) map[string]map[string]string {
	arguments := map[string]map[string]string{}
	for name, target := range targets {
		arguments[name] = target.Args
	}
	return arguments
}

// checkArguments refuses what the commit does not say and what must not be told. It names
// arguments and never their values.
func checkArguments(declared, found map[string]map[string]string, environ []string) error {
	secrets := evidence.SecretsOf(environ)
	for _, target := range slices.Sorted(maps.Keys(found)) {
		for _, name := range slices.Sorted(maps.Keys(found[target])) {
			value := found[target][name]
			if want, ok := declared[target][name]; !ok || want != value {
				return fault.New(fault.Refused, "building", target, "the environment changes its build argument %s", name).
					WithHint("unset the variable, or write the value into the bake file and commit it")
			}
			if variable := holds(value, secrets); variable != "" {
				return fault.New(fault.Refused, "building", target, "its build argument %s holds the value of %s in this environment", name, variable).
					WithHint("arguments stay in the image's history and in its provenance: revoke the secret, and give the new one with RUN --mount=type=secret")
			}
			if evidence.LooksSecret(name, value) {
				return fault.New(fault.Refused, "building", target, "its build argument %s looks like a secret", name).
					WithHint("arguments stay in the image's history and in its provenance: give it with RUN --mount=type=secret")
			}
		}
	}
	return nil
}

// checkTargets refuses a target that the environment changes in anything but its arguments: what is built of
// a commit is what the commit says.
func checkTargets(declared, found map[string]printed) error {
	for _, target := range slices.Sorted(maps.Keys(found)) {
		if !bytes.Equal(declared[target].whole, found[target].whole) {
			return fault.New(fault.Refused, "building", target, "the environment changes its target in the bake file").
				WithHint("a variable of the bake file has the name of one of the environment, such as HOME: give it another, or unset that")
		}
	}
	return nil
}

// holds returns the name of a secret that a value holds, or "".
func holds(value string, secrets map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		if strings.Contains(value, secrets[name]) {
			return name
		}
	}
	return ""
}
