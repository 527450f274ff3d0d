package mage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// handedOver is what a job that inspected one image on two platforms leaves.
func handedOver(t *testing.T) (dist, release.Record) {
	t.Helper()
	src := release.Source{Commit: ourCommit}
	d := newDist(t.TempDir(), src)
	r := release.Record{Schema: 1, Family: "tiny", Source: src, Images: map[string]release.Image{
		"tiny": {Index: graph.NewNode("", []byte("both")), Platforms: map[string]graph.Node{"linux/amd64": graph.NewNode("", []byte("amd64")), "linux/arm64": graph.NewNode("", []byte("arm64"))}},
	}}
	if err := d.WriteRecord(r); err != nil {
		t.Fatal(err)
	}
	var reports []evidence.Report
	for _, cell := range r.Cells() {
		node, _ := r.Digest(cell)
		sbom := "the SBOM of " + cell.String()
		if err := writeFile(filepath.Join(d.evidence(cell), "sbom.cdx.json"), strings.NewReader(sbom)); err != nil {
			t.Fatal(err)
		}
		reports = append(reports, evidence.Report{Cell: cell, Digest: node.Digest, SBOM: digest.FromString(sbom)})
	}
	if err := d.WriteReports(reports); err != nil {
		t.Fatal(err)
	}
	return d, r
}

func TestWhatAJobHandsOverIsTakenOnceItsDigestIsKnown(t *testing.T) {
	d, r := handedOver(t)
	said, err := d.handover()
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := d.ReadReports(r); found || err != nil {
		t.Errorf("without a word of the earlier job it found reports: %v, %v", found, err)
	}
	if err := d.takeOver(said.String(), r.Source); err != nil {
		t.Fatal(err)
	}
	if reports, found, err := d.ReadReports(r); len(reports) != 2 || !found || err != nil {
		t.Errorf("ReadReports = %v, %v, %v, want two", reports, found, err)
	}
	if err := os.RemoveAll(d.path("evidence")); err != nil {
		t.Fatal(err)
	}
	built, err := d.handover()
	if err != nil || built == said {
		t.Fatalf("without evidence the digest is %s, %v", built, err)
	}
	if err := d.takeOver(built.String(), r.Source); err != nil {
		t.Error(err)
	}
	if _, found, err := d.ReadReports(r); found || err != nil {
		t.Errorf("a job that inspected nothing left reports: %v, %v", found, err)
	}
}

// A job that waits for another one's word does nothing without it. No word at all is no hand-over.
func TestAnEmptyHandOverIsRefused(t *testing.T) {
	said := "sha256:" + strings.Repeat("0", 64)
	for value, want := range map[string]bool{"": false, said: true} {
		t.Setenv("CONTAINAI_HANDOVER", value)
		env, err := readEnvironment()
		if (err == nil) != want || err != nil && (!errors.Is(err, fault.Invalid) || fault.HintOf(err) == "") {
			t.Errorf("CONTAINAI_HANDOVER=%q: %v", value, err)
		}
		if env.handover != value {
			t.Errorf("CONTAINAI_HANDOVER=%q is read as %q", value, env.handover)
		}
	}
	if err := os.Unsetenv("CONTAINAI_HANDOVER"); err != nil {
		t.Fatal(err)
	}
	if env, err := readEnvironment(); err != nil || env.handover != "" {
		t.Errorf("without the variable: %q, %v", env.handover, err)
	}
}

// Whatever happened to the files between two jobs, the second one publishes nothing of it.
func TestWhatWasChangedBetweenTwoJobsIsNotTakenOver(t *testing.T) {
	overwrite := func(parts ...string) func(*testing.T, dist) {
		return func(t *testing.T, d dist) {
			if err := writeFile(d.path(parts...), strings.NewReader("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, change := range map[string]func(*testing.T, dist){
		"the record":       overwrite("record.json"),
		"a report":         overwrite("evidence", "tiny", "linux-amd64", "report.json"),
		"an SBOM":          overwrite("evidence", "tiny", "linux-arm64", "sbom.cdx.json"),
		"one file more":    overwrite("evidence", "tiny", "linux-arm64", "more.json"),
		"one image more":   overwrite("evidence", "evil", "linux-amd64", "report.json"),
		"one report fewer": func(_ *testing.T, d dist) { os.Remove(d.path("evidence", "tiny", "linux-amd64", "report.json")) },
		"all evidence":     func(_ *testing.T, d dist) { os.RemoveAll(d.path("evidence")) },
		"everything":       func(_ *testing.T, d dist) { os.RemoveAll(d.dir) },
		"a link instead of a file": func(t *testing.T, d dist) {
			file := d.path("evidence", "tiny", "linux-amd64", "report.json")
			if err := errors.Join(os.Rename(file, file+".kept"), os.Symlink(file+".kept", file)); err != nil {
				t.Fatal(err)
			}
		},
		"two files swapped": func(t *testing.T, d dist) {
			a, b := d.path("evidence", "tiny", "linux-amd64"), d.path("evidence", "tiny", "linux-arm64")
			if err := errors.Join(os.Rename(a, a+".x"), os.Rename(b, a), os.Rename(a+".x", b)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, r := handedOver(t)
			said, err := d.handover()
			if err != nil {
				t.Fatal(err)
			}
			change(t, d)
			if err := d.takeOver(said.String(), r.Source); err == nil || d.taken {
				t.Errorf("it was taken over: %v", err)
			}
		})
	}
}

// Evidence of another build is none of this one, also when nobody touched it.
func TestEvidenceOfAnotherBuildIsNotTakenOver(t *testing.T) {
	for name, change := range map[string]func(r *release.Record){
		"another digest": func(r *release.Record) {
			r.Images["tiny"].Platforms["linux/arm64"] = graph.NewNode("", []byte("rebuilt"))
		},
		"a platform more": func(r *release.Record) {
			r.Images["tiny"].Platforms["linux/riscv64"] = graph.NewNode("", []byte("riscv64"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, r := handedOver(t)
			said, err := d.handover()
			if err == nil {
				err = d.takeOver(said.String(), r.Source)
			}
			if err != nil {
				t.Fatal(err)
			}
			change(&r)
			if _, found, err := d.ReadReports(r); found || err == nil {
				t.Errorf("ReadReports = %v, %v", found, err)
			} else if kind, ok := fault.KindOf(err); !ok {
				t.Errorf("%v has no kind: %v", err, kind)
			}
		})
	}
}

// What several machines built is merged if each part is what its job said, in the order of the parts.
func TestAMergeTakesPartsThatTheirJobsSpokeOf(t *testing.T) {
	a, r := handedOver(t)
	b, _ := handedOver(t)
	if err := writeFile(b.path("evidence", "tiny", "linux-arm64", "more.json"), strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	saidA, err := a.handover()
	if err != nil {
		t.Fatal(err)
	}
	saidB, err := b.handover()
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]bool{
		"":                                    true,
		saidA.String() + "," + saidB.String(): true,
		saidB.String() + "," + saidA.String(): false,
		saidA.String():                        false,
		saidA.String() + ",":                  false,
		"," + saidB.String():                  false,
		",":                                   false,
		saidA.String() + "," + saidA.String(): false,
	} {
		if err := takeParts([]string{a.dir, b.dir}, said, r.Source); (err == nil) != want {
			t.Errorf("parts that are said to be %q: %v", said, err)
		}
	}
}
