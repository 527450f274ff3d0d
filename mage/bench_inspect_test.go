package mage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/containai/containai/mage/internal/inspect"
)

// BenchmarkInspectFamily inspects the six real images: with nothing kept, again unchanged, and with a
// new layer on one variant; beside Syft and Trivy, with nothing kept and again.
func BenchmarkInspectFamily(b *testing.B) {
	from, cells := realFamily(b)
	db := fixtureDatabase(b)
	p, worker := newPeers(b, db), scannerWorker(b)
	layout := linked(b, from)
	changed := slices.Clone(cells)
	variant := slices.IndexFunc(cells, func(c inspect.Cell) bool { return c.Image == "containai-codex" })
	changed[variant] = addLayer(b, layout, cells[variant], "containai-codex", map[string]string{"opt/new.txt": "a line\n"})
	var views []string
	for _, c := range cells {
		views = append(views, view(b, layout, c))
	}
	for b.Loop() {
		cache := b.TempDir()
		peak := 0
		ours := func(cells []inspect.Cell) time.Duration {
			out := b.TempDir()
			began := time.Now()
			_, mib := inspectCells(b, worker, layout, cells, db, cache, out)
			peak = max(peak, mib)
			return time.Since(began)
		}
		theirs := func() time.Duration {
			began := time.Now()
			for _, v := range views {
				p.syft(b, v)
				p.trivy(b, v)
			}
			return time.Since(began)
		}
		cold, theirCold := ours(cells), theirs()
		again, theirAgain := ours(cells), theirs()
		one := ours(changed)
		for _, m := range []struct {
			name         string
			took, theirs time.Duration
		}{{"cold", cold, theirCold}, {"again", again, theirAgain}, {"changed", one, theirAgain}} {
			part := m.took.Seconds() / m.theirs.Seconds()
			b.Logf("%s: ours %s, Syft and Trivy %s, part %.4f", m.name, m.took, m.theirs, part)
			b.ReportMetric(m.took.Seconds(), m.name+"-s")
			b.ReportMetric(m.theirs.Seconds(), m.name+"-peers-s")
			b.ReportMetric(part, m.name+"-part")
		}
		b.ReportMetric(float64(peak), "peak-MiB")
		if peak == 0 {
			b.Error("the worker does not say what memory it took")
		}
	}
}
