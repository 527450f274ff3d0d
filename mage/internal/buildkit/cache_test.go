package buildkit

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/release"
)

func TestParseCacheReadsBuildxNotation(t *testing.T) {
	t.Parallel()
	job := []string{"ACTIONS_RUNTIME_TOKEN=secret", "ACTIONS_RESULTS_URL=https://results.example"}
	for setting, want := range map[string]SharedCache{
		"":         {},
		"type=gha": {Type: "gha", Env: job},
		"type=registry,ref=127.0.0.1:5000/tiny/cache": {Type: "registry", Ref: "127.0.0.1:5000/tiny/cache"},
		"type=local,dest=/var/cache/build":            {Type: "local", Dest: "/var/cache/build"},
	} {
		got, err := ParseCache(setting, job)
		if err != nil || cmp.Diff(want, got) != "" || got.String() != setting {
			t.Errorf("ParseCache(%q) = %+v, %v", setting, got, err)
		}
	}
	for _, setting := range []string{
		"gha", "type=s3", "type=registry", "type=registry,ref=cache", "type=registry,ref=host/cache:tag", "type=local",
		"type=local,dest=relative", "type=gha,scope=mine", "type=registry,ref=host/cache,mode=min", "type=local,dest=/a,ref=host/b",
	} {
		if got, err := ParseCache(setting, job); !errors.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("ParseCache(%q) = %+v, %v, want Invalid with the ways that there are", setting, got, err)
		}
	}
	if _, err := ParseCache("type=gha", nil); !errors.Is(err, fault.Environment) || !strings.Contains(fault.HintOf(err), "ACTIONS_RUNTIME_TOKEN") {
		t.Errorf("GitHub's cache outside of its jobs: %v", err)
	}
}

func TestCacheHasAScopeForEachImageAndPlatform(t *testing.T) {
	t.Parallel()
	both := release.CacheUse{Take: true, Fill: true}
	for name, test := range map[string]struct {
		cache     SharedCache
		platforms []string
		use       release.CacheUse
		want      CacheOf
	}{
		"one platform": {SharedCache{Type: "gha"}, []string{"linux/amd64"}, both, CacheOf{
			From: []string{"type=gha,scope=app-linux-amd64"},
			To:   []string{"type=gha,scope=app-linux-amd64,mode=max,ignore-error=true"},
		}},
		"two platforms in one solve read each one's, too": {SharedCache{Type: "registry", Ref: "host/cache"}, []string{"linux/amd64", "linux/arm64"}, both, CacheOf{
			From: []string{"type=registry,ref=host/cache:app-linux-amd64_linux-arm64", "type=registry,ref=host/cache:app-linux-amd64", "type=registry,ref=host/cache:app-linux-arm64"},
			To:   []string{"type=registry,ref=host/cache:app-linux-amd64_linux-arm64,image-manifest=true,mode=max,ignore-error=true"},
		}},
		"a release that takes none": {SharedCache{Type: "local", Dest: "/c"}, []string{"linux/amd64"}, release.CacheUse{Fill: true}, CacheOf{
			To: []string{"type=local,dest=/c/app-linux-amd64,mode=max,ignore-error=true"},
		}},
		"no cache": {SharedCache{}, []string{"linux/amd64"}, both, CacheOf{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.cache.Of("app", test.platforms, test.use)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestSharedCacheCarriesStepsToAnotherMachine: machines are state directories with a BuildKit each. A
// step of random bytes tells whether it ran again.
func TestSharedCacheCarriesStepsToAnotherMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	dir := t.TempDir()
	state, err := local.OpenState(filepath.Join(t.TempDir(), "registry"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	registry, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	fill, take := release.CacheUse{Fill: true}, release.CacheUse{Take: true}
	for name, cache := range map[string]SharedCache{
		"type=local":                        {Type: "local", Dest: dir},
		"type=registry at the embedded one": {Type: "registry", Ref: registry.Host + "/tiny/cache"},
	} {
		t.Run(name, func(t *testing.T) {
			second := t.TempDir()
			first, taking := buildOn(t, t.TempDir(), cache, fill), buildOn(t, second, cache, take)
			if first.Cached || !taking.Cached {
				t.Errorf("who could take from the cache: %v, %v", first.Cached, taking.Cached)
			}
			if taking.Index.Digest != first.Index.Digest {
				t.Error("the step ran again on the second machine")
			}
			if work := buildOn(t, second, SharedCache{}, take); !work.Cached {
				t.Error("a build on a builder that has taken before says that it could not")
			}
			if again := buildOn(t, second, cache, fill); again.Cached || again.Index.Digest == first.Index.Digest {
				t.Error("a build that may not take got what its builder had taken before")
			}
		})
	}
	t.Run("a registry that does not answer fails no build", func(t *testing.T) {
		buildOn(t, t.TempDir(), SharedCache{Type: "registry", Ref: "127.0.0.1:1/tiny/cache"}, release.CacheUse{Take: true, Fill: true})
	})
}

// buildOn builds a family of one on a machine.
func buildOn(t *testing.T, machine string, cache SharedCache, use release.CacheUse) release.Image {
	t.Helper()
	options := testOptions(t, machine)
	options.Shared = cache
	b, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Kind() != Embedded {
		skip(t, "another BuildKit was chosen: "+string(b.Kind()))
	}
	r := request(t, testFamily([]string{"linux/amd64"}))
	r.Cache = use
	write(t, filepath.Join(r.Root, "docker-bake.hcl"), strings.ReplaceAll(bakeFile, "date +%s >/built", "head -c 16 /dev/urandom >/built"))
	_, store := newLayout(t)
	got, err := b.Build(t.Context(), r, store)
	if err != nil {
		t.Fatal(err)
	}
	return got.Images["base"]
}
