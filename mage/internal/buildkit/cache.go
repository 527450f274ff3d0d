package buildkit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/release"
)

// SharedCache is a build cache beside the builder's own, for machines that do not live long: one of
// BuildKit's backends, with one scope for each image and the platforms that are built together.
// https://docs.docker.com/build/cache/backends/
type SharedCache struct {
	Type string   // gha, registry or local; empty is no cache
	Ref  string   // of type registry: host/repository
	Dest string   // of type local: a directory
	Env  []string // of type gha: what GitHub gives a job to reach its cache, NAME=value
}

// repositoryGrammar is host[:port]/repository without a tag, which is the scope's.
var repositoryGrammar = lazyregexp.New(`^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)

// ParseCache reads "type=gha", "type=registry,ref=HOST/REPOSITORY" or "type=local,dest=DIRECTORY", a
// part of Buildx's own notation; "" is no cache. Job is what GitHub gave this process for its cache.
func ParseCache(setting string, job []string) (SharedCache, error) {
	var c SharedCache
	if setting == "" {
		return c, nil
	}
	for field := range strings.SplitSeq(setting, ",") {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "type":
			c.Type = value
		case "ref":
			c.Ref = value
		case "dest":
			c.Dest = value
		default:
			c.Type = "" // refused below
		}
	}
	switch {
	case c.Type == "gha" && c.Ref == "" && c.Dest == "":
		c.Env = job
		return c, c.checkJob()
	case c.Type == "registry" && repositoryGrammar.MatchString(c.Ref) && c.Dest == "":
		return c, nil
	case c.Type == "local" && filepath.IsAbs(c.Dest) && c.Ref == "":
		return c, nil
	}
	return SharedCache{}, fault.New(fault.Invalid, "reading CONTAINAI_CACHE", fmt.Sprintf("%q", setting), "it names no cache").
		WithHint("one of: type=gha   type=registry,ref=HOST/REPOSITORY   type=local,dest=/DIRECTORY")
}

// checkJob: the runner gives the token to actions and not to shell steps.
func (c SharedCache) checkJob() error {
	if slices.ContainsFunc(c.Env, func(v string) bool { return strings.HasPrefix(v, "ACTIONS_RUNTIME_TOKEN=") }) {
		return nil
	}
	return fault.New(fault.Environment, "using", "type=gha", "ACTIONS_RUNTIME_TOKEN is not set: this is no job of GitHub Actions, or a step that does not see its cache").
		WithHint("unset CONTAINAI_CACHE here; in a job, hand ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL to the step with actions/github-script and core.exportVariable")
}

// String is the setting again.
func (c SharedCache) String() string {
	switch c.Type {
	case "":
		return ""
	case "registry":
		return "type=registry,ref=" + c.Ref
	case "local":
		return "type=local,dest=" + c.Dest
	}
	return "type=" + c.Type
}

// CacheOf is what one image takes from and fills, in Buildx's notation.
type CacheOf struct {
	From []string `json:"from,omitempty"`
	To   []string `json:"to,omitempty"`
}

// Of returns it. Platforms that are built together share a scope, for BuildKit exports one cache of a
// solve; each platform's own is read as well, where machines build one platform each.
func (c SharedCache) Of(image string, platforms []string, use release.CacheUse) CacheOf {
	var of CacheOf
	if c.Type == "" {
		return of
	}
	together := strings.ReplaceAll(image+"-"+strings.Join(platforms, "_"), "/", "-")
	if use.Take {
		of.From = append(of.From, c.from(together))
		for _, p := range platforms {
			if alone := strings.ReplaceAll(image+"-"+p, "/", "-"); alone != together {
				of.From = append(of.From, c.from(alone))
			}
		}
	}
	if use.Fill {
		of.To = append(of.To, c.to(together)+",mode=max,ignore-error=true") // a release does not fail for its cache
	}
	return of
}

func (c SharedCache) from(scope string) string {
	switch c.Type {
	case "gha":
		return "type=gha,scope=" + scope
	case "registry":
		return "type=registry,ref=" + c.Ref + ":" + scope
	}
	return "type=local,src=" + filepath.Join(c.Dest, scope)
}

func (c SharedCache) to(scope string) string {
	switch c.Type {
	case "registry":
		return c.from(scope) + ",image-manifest=true"
	case "local":
		return "type=local,dest=" + filepath.Join(c.Dest, scope)
	}
	return c.from(scope)
}

// takenBy reports whether a build can take from the cache. One that runs every step again cannot.
func (c SharedCache) takenBy(r Request) bool { return c.Type != "" && r.Cache.Take && !r.Rebuild }

// trust reports whether a build can get what others wrote. What a builder has once taken is in its own
// cache: a build that may take nothing then runs every step again.
func (b *Builder) trust(r Request) (Request, bool, error) {
	marker := b.state("taken-" + shortHash(b.name))
	if b.options.Shared.takenBy(r) {
		return r, true, fault.Wrap(os.WriteFile(marker, nil, 0o600), fault.Environment, "writing", marker)
	}
	_, err := os.Stat(marker)
	if err != nil || r.Rebuild || r.Cache.Take {
		return r, err == nil && !r.Rebuild, nil
	}
	b.notice("this builder has taken from a shared cache, which this build may not: running every step again")
	r.Rebuild = true
	return r, false, nil
}

// settings are Buildx's for the images of a solve.
func (c SharedCache) settings(r Request, platforms, images []string) []string {
	if c.Type == "" || r.Rebuild {
		return nil
	}
	var set []string
	for _, image := range images {
		of := c.Of(image, platforms, r.Cache)
		for _, from := range of.From {
			set = append(set, "--set", image+".cache-from="+from)
		}
		for _, to := range of.To {
			set = append(set, "--set", image+".cache-to="+to)
		}
	}
	if c.Type == "local" {
		set = append(set, "--allow=fs.read="+c.Dest, "--allow=fs.write="+c.Dest)
	}
	return set
}
