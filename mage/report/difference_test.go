package report_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

var update = flag.Bool("update", false, "write the golden files")

// compared has every sort of difference, and a package whose name would act on a terminal and a page.
func compared() report.Comparison {
	change := func(name, before, after string) release.PackageChange {
		return release.PackageChange{Name: name, Before: before, After: after}
	}
	return report.Comparison{
		Channel: "prod", From: "sha-" + strings.Repeat("1", 40), To: "sha-" + strings.Repeat("2", 40) + "-r2",
		Differences: []release.Difference{
			{Member: "app", Platform: "linux/amd64", SizeBefore: 28_100_000, SizeAfter: 29_350_000,
				Packages:   []release.PackageChange{change("<script>alert(1)</script>\x1b[2J", "", "1.0"), change("gone", "2", ""), change("openssl", "3.0.17", "3.0.18")},
				Introduced: []string{"LOW CVE-2026-7 in curl"}, Fixed: []string{"HIGH CVE-2026-1 in openssl", "MEDIUM CVE-2026-2 in openssl"}},
			{Member: "app", Platform: "linux/arm64", SizeAfter: 900, Unknown: []string{"packages: there is no SBOM of both"}},
			{Member: "old", Platform: "linux/amd64", SizeBefore: 1_230_000_000, Unknown: []string{"packages: there is no SBOM of both"}},
			{Member: "payload", SizeBefore: 4_000, SizeAfter: 3_500},
		},
	}
}

func TestADifferenceIsToldCellByCell(t *testing.T) {
	golden(t, "difference.txt", []byte(compared().Text(term.Escape)))
}

func TestNoDifferenceIsSaid(t *testing.T) {
	got := report.Comparison{Channel: "dev", From: "sha-1", To: "sha-2"}.Text(term.Escape)
	if want := "dev: sha-1 → sha-2\nthe same packages, vulnerabilities and sizes\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func ExampleComparison_Text() {
	c := report.Comparison{Channel: "prod", From: "sha-1", To: "sha-2", Differences: []release.Difference{{
		Member: "app", Platform: "linux/amd64", SizeBefore: 28_100_000, SizeAfter: 28_000_000,
		Packages: []release.PackageChange{{Name: "openssl", Before: "3.0.17", After: "3.0.18"}}, Fixed: []string{"HIGH CVE-2026-1 in openssl"},
	}}}
	fmt.Print(c.Text(term.Escape))
	// Output:
	// prod: sha-1 → sha-2
	// packages: 0 added, 0 removed, 1 with another version; vulnerabilities: 0 come, 1 go; size: −100.0 kB
	//       app linux/amd64: size: 28.1 MB → 28.0 MB (−100.0 kB)
	//       app linux/amd64: packages: openssl 3.0.17 → 3.0.18
	//       app linux/amd64: vulnerabilities that go: HIGH CVE-2026-1 in openssl
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", path, diff)
	}
}
