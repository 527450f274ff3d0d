package mage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkMagefile lists the targets and runs one that does next to nothing, after it was compiled: with
// this repository's magefile, with one that has a single target and imports nothing, and with one that imports
// that target: the least that any library costs. With MAGEFILE_HASHFAST Mage trusts a hash of the magefile
// instead of asking Go whether anything changed.
func BenchmarkMagefile(b *testing.B) {
	program := filepath.Join(b.TempDir(), "mage")
	build := exec.Command("go", "build", "-o", program, "github.com/magefile/mage")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cache := "MAGEFILE_CACHE=" + b.TempDir()
	for _, of := range []struct{ name, dir, target string }{
		{"bare", bareMagefile(b), "hello"}, {"importing", importingMagefile(b), "hello"}, {"ours", clone(b), "family:check"},
	} {
		for _, way := range []struct {
			name string
			args string
			env  []string
		}{
			{"list", "-l", []string{cache}},
			{"target", of.target, []string{cache}},
			{"list hashfast", "-l", []string{cache, "MAGEFILE_HASHFAST=1"}},
			{"target hashfast", of.target, []string{cache, "MAGEFILE_HASHFAST=1"}},
		} {
			b.Run(way.name+"/"+of.name, func(b *testing.B) {
				c := timedCommand{args: []string{program, way.args}, dir: of.dir, env: way.env}
				timedCommand{args: []string{program, of.target}, dir: of.dir, env: way.env}.run(b) // compiles it
				c.run(b)
				b.ResetTimer()
				for b.Loop() {
					c.run(b)
				}
			})
		}
	}
}

// bareMagefile is a module of one target, which prints a word.
func bareMagefile(b *testing.B) string {
	return magefileModule(b, map[string]string{"magefile.go": "//go:build mage\n\npackage main\n\n" + helloTarget})
}

// importingMagefile is a module whose magefile imports that target from a package beside it.
func importingMagefile(b *testing.B) string {
	return magefileModule(b, map[string]string{
		"magefile.go":        "//go:build mage\n\npackage main\n\n//mage:import\nimport _ \"bare/targets\"\n",
		"targets/targets.go": "package targets\n\n" + helloTarget,
	})
}

const helloTarget = "import \"fmt\"\n\n// Hello says hello.\nfunc Hello() { fmt.Println(\"hello\") }\n"

func magefileModule(b *testing.B, files map[string]string) string {
	b.Helper()
	dir := b.TempDir()
	files["go.mod"] = "module bare\n\ngo 1.26\n"
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
