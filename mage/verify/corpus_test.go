package verify_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
)

// fixture is one wrong thing of the negative corpus, and the exit status it must end with.
type fixture struct {
	row, name string
	kind      fault.Kind
}

// corpus lists every table of wrong things; the test beside each table refuses them.
func corpus() []fixture {
	var all []fixture
	for _, f := range append(forgedBundles(), forgedStatements()...) { // TestForgedBundles, TestForgedStatements
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range keyForgeries() { // TestForgedKeys
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range frauds() { // TestFrauds
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range hostileFiles() { // TestHostileEvidenceFiles
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range hostileRegistries() { // TestHostileRegistries
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range hostileIndexes() { // TestHostileIndexes
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	for _, f := range wrongAttestations() { // TestWrongAttestations
		all = append(all, fixture{f.row, f.name, f.kind})
	}
	return all
}

// leastFixtures is what was promised of the corpus.
const leastFixtures = 60

func TestTheCorpusIsWhole(t *testing.T) {
	rows, kinds, names := map[string]int{}, map[fault.Kind]int{}, map[string]bool{}
	for _, f := range corpus() {
		rows[f.row]++
		kinds[f.kind]++
		if name := f.row + " " + f.name; names[name] {
			t.Errorf("%q stands there twice", name)
		} else {
			names[name] = true
		}
	}
	if len(names) < leastFixtures {
		t.Errorf("%d fixtures, want %d", len(names), leastFixtures)
	}
	for n := 1; n <= 14; n++ {
		if row := fmt.Sprint("D", n); rows[row] == 0 {
			t.Errorf("nothing of row %s", row)
		}
	}
	for _, kind := range []fault.Kind{fault.Unverified, fault.Forged, fault.Refused, fault.Environment, fault.Unavailable} {
		if kinds[kind] == 0 {
			t.Errorf("nothing ends with %d %v", int(kind), kind)
		}
	}
	var table strings.Builder
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&table, "%s %d, ", row, rows[row])
	}
	t.Logf("%d fixtures: %s", len(names), table.String())
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Logf("exit %d %v: %d", int(kind), kind, kinds[kind])
	}
}
