package mage_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BenchmarkMagefile lists the targets and runs one that does next to nothing, after it was compiled: with
// this repository's magefile, and with one that has a single target and imports nothing. With
// MAGEFILE_HASHFAST Mage trusts a hash of the magefile instead of asking Go whether anything changed.
func BenchmarkMagefile(b *testing.B) {
	program := filepath.Join(b.TempDir(), "mage")
	build := exec.Command("go", "build", "-o", program, "github.com/magefile/mage")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cache := "MAGEFILE_CACHE=" + b.TempDir()
	for _, of := range []struct{ name, dir, target string }{{"bare", bareMagefile(b), "hello"}, {"ours", clone(b), "family:check"}} {
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
	b.Helper()
	dir := b.TempDir()
	for name, content := range map[string]string{
		"go.mod":      "module bare\n\ngo 1.26\n",
		"magefile.go": "//go:build mage\n\npackage main\n\nimport \"fmt\"\n\n// Hello says hello.\nfunc Hello() { fmt.Println(\"hello\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}
