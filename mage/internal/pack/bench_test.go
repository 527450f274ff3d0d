package pack_test

import (
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containai/containai/mage/internal/pack"
)

// maxOverhead is how much larger than by tar | pigz -p2 an archive may be, in percent.
const maxOverhead = 4.0

func TestMain(m *testing.M) {
	flag.String("tree", "", "directory that the benchmark packs (default: the source of Go's commands)")
	os.Exit(m.Run())
}

// benchTree is a real tree of 30 MB, there wherever these tests run.
func benchTree(tb testing.TB) string {
	if dir := flag.Lookup("tree").Value.String(); dir != "" {
		return dir
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	check(tb, err)
	return filepath.Join(strings.TrimSpace(string(out)), "src", "cmd")
}

// BenchmarkPack runs both as peers, by turns on the same tree, and compares the best of each, by
// the clock and by the processor time that both needed. The clock decides on an idle machine;
// on a busy one it measures the neighbours.
//
//	go test -run '^$' -bench Pack -benchtime 5x ./mage/internal/pack [-args -tree DIR]
func BenchmarkPack(b *testing.B) {
	dir := benchTree(b)
	find(b, "pigz")
	raw := measure(b, peer("tar -cf - ."), dir) // and warms the page cache

	var ours, theirs usage
	for b.Loop() {
		theirs = theirs.best(measure(b, peer("tar -cf - . | pigz -p2"), dir))
		ours = ours.best(measure(b, packTree, dir))
	}

	overhead := percentLarger(ours, theirs)
	speedup := theirs.clock.Seconds() / ours.clock.Seconds()
	thrift := theirs.cpu.Seconds() / ours.cpu.Seconds()
	b.ReportMetric(float64(raw.size)/1e6, "tree-MB")
	b.ReportMetric(float64(raw.size)/1e6/ours.clock.Seconds(), "pack-MB/s")
	b.ReportMetric(float64(raw.size)/1e6/theirs.clock.Seconds(), "pigz-MB/s")
	b.ReportMetric(ours.clock.Seconds(), "ours-s")
	b.ReportMetric(theirs.clock.Seconds(), "pigz-s")
	b.ReportMetric(speedup, "speedup")
	b.ReportMetric(thrift, "cpu-speedup")
	b.ReportMetric(overhead, "%larger")
	b.ReportMetric(0, "ns/op") // of both together: says nothing
	if overhead > maxOverhead {
		b.Errorf("%.2f %% larger than pigz's, want at most %v %%", overhead, maxOverhead)
	}
}

// The size does not depend on the machine, so a test holds it.
func TestPackIsNearlyAsSmallAsPigz(t *testing.T) {
	find(t, "pigz")
	dir := filepath.Join(filepath.Dir(benchTree(t)), "net")
	ours, theirs := measure(t, packTree, dir), measure(t, peer("tar -cf - . | pigz -p2"), dir)
	if overhead := percentLarger(ours, theirs); overhead > maxOverhead {
		t.Errorf("%d bytes are %.2f %% more than pigz's %d, want at most %v %%", ours.size, overhead, theirs.size, maxOverhead)
	}
}

// usage is what one run made and took.
type usage struct {
	size       int64
	clock, cpu time.Duration
}

// best returns the smaller time of each kind; the zero usage is no run.
func (u usage) best(run usage) usage {
	if u.size == 0 {
		return run
	}
	return usage{run.size, min(u.clock, run.clock), min(u.cpu, run.cpu)}
}

func percentLarger(a, b usage) float64 { return 100 * (float64(a.size)/float64(b.size) - 1) }

func measure(tb testing.TB, run func(testing.TB, string, io.Writer), dir string) usage {
	var n int64
	start, cpu := time.Now(), cpuTime(tb)
	run(tb, dir, writerFunc(func(p []byte) (int, error) { n += int64(len(p)); return len(p), nil }))
	return usage{n, time.Since(start), cpuTime(tb) - cpu}
}

// cpuTime is what this process and the children it waited for have used.
func cpuTime(tb testing.TB) time.Duration {
	var total time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		check(tb, syscall.Getrusage(who, &r))
		total += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return total
}

func packTree(tb testing.TB, dir string, w io.Writer) {
	root, err := os.OpenRoot(dir)
	check(tb, err)
	defer root.Close()
	check(tb, pack.Pack(tb.Context(), w, root.FS(), pack.Options{}))
}

func peer(command string) func(testing.TB, string, io.Writer) {
	return func(tb testing.TB, dir string, w io.Writer) {
		cmd := exec.CommandContext(tb.Context(), "sh", "-c", command)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, w, os.Stderr
		check(tb, cmd.Run())
	}
}
