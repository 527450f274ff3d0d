package inspect

import (
	"debug/buildinfo"
	"runtime/debug"
	"testing"
)

// TestAnotherModuleBelowTheScannersIsAnotherKey: what they find depends on every module linked into the
// worker, not on theirs alone. The commit and the place it was built at say nothing of that.
func TestAnotherModuleBelowTheScannersIsAnotherKey(t *testing.T) {
	build := func(edit func(*buildinfo.BuildInfo)) *buildinfo.BuildInfo {
		info := &buildinfo.BuildInfo{
			GoVersion: "go1.26.8", Path: "github.com/containai/containai/mage/cmd/inspect",
			Main:     debug.Module{Path: "github.com/containai/containai", Version: "v1.0.0"},
			Deps:     []*debug.Module{{Path: "example.org/scanner", Version: "v1.0.0", Sum: "h1:a"}, {Path: "example.org/parser", Version: "v1.0.0", Sum: "h1:b"}},
			Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "1"}},
		}
		edit(info)
		return info
	}
	key := func(info *buildinfo.BuildInfo) string {
		want, _, _ := truth()
		want.tools[ToolModules] = Modules(info)
		return want.key(Job{})
	}
	first := key(build(func(*buildinfo.BuildInfo) {}))
	for name, test := range map[string]struct {
		edit func(*buildinfo.BuildInfo)
		same bool
	}{
		"another version of a module": {func(b *buildinfo.BuildInfo) { b.Deps[1].Version = "v1.0.1" }, false},
		"another content of a module": {func(b *buildinfo.BuildInfo) { b.Deps[1].Sum = "h1:c" }, false},
		"a module in place of another": {func(b *buildinfo.BuildInfo) {
			b.Deps[1].Replace = &debug.Module{Path: "example.org/fork", Version: "v1.0.0"}
		}, false},
		"a module less":                 {func(b *buildinfo.BuildInfo) { b.Deps = b.Deps[:1] }, false},
		"another Go":                    {func(b *buildinfo.BuildInfo) { b.GoVersion = "go1.27" }, false},
		"another commit of this module": {func(b *buildinfo.BuildInfo) { b.Main.Version, b.Settings[0].Value = "v1.0.1", "2" }, true},
	} {
		if got := key(build(test.edit)); (got == first) != test.same {
			t.Errorf("%s: the key is the same: %v", name, got == first)
		}
	}
}
