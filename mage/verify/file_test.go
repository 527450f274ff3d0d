package verify_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

func TestD7AnOlderDocumentIsAcceptedWithAReasonThatIsReported(t *testing.T) {
	w := newWorld(t, plot{})
	w.verifier.Seen = verify.Seen{Generation: 9, Digest: digest.FromString("9")}
	w.verifier.RollbackUnsafe = "the registry was restored from a backup"
	r, err := w.verifier.Channel(t.Context(), "dev", w.now)
	if err != nil || !slices.ContainsFunc(r.Checks, func(c verify.Check) bool { return strings.Contains(c.Found, w.verifier.RollbackUnsafe) }) {
		t.Errorf("%+v, %v", r, err)
	}
	if r.Seen() != (verify.Seen{Generation: 7, Digest: w.node.Digest}) {
		t.Errorf("Seen() = %+v", r.Seen())
	}
}

func TestAnExportIsTheSameBytesAgain(t *testing.T) {
	w := newWorld(t, plot{fallback: true})
	_, one := w.export(t)
	_, two := w.export(t)
	if !bytes.Equal(one, two) {
		t.Error("two exports of the same channel differ")
	}
	if err := verify.Export(t.Context(), io.Discard, w.fam, w.registry, "prod"); !errors.Is(err, fault.Unverified) {
		t.Errorf("a channel that is not served: %v, want Unverified", err)
	}
	t.Logf("%d bytes", len(one))
}

// Row D11: what strangers attach keeps nobody from exporting, and its content stays behind.
func TestD11WhatIsNoEvidenceIsNotExported(t *testing.T) {
	const tooLarge = pipeline.MaxBundle + 1
	w := newWorld(t, plot{})
	_, honest := w.export(t)
	index := w.record.Images["tiny-1"].Index
	w.hang(t, "application/x-other", index, nil, make([]byte, tooLarge))
	w.hang(t, evidence.BundleType, index, nil, slices.Repeat([][]byte{nil}, 1000)...)
	w.hang(t, evidence.BundleType, must(w.registry.Repository("tiny-1").Referrers(t.Context(), index))[0].Manifest, nil, []byte("on evidence"))
	if _, content := w.export(t); !bytes.Equal(content, honest) {
		t.Errorf("the export has %d bytes, without them %d", len(content), len(honest))
	}
	w.hang(t, evidence.BundleType, index, nil, make([]byte, tooLarge))
	w.hang(t, evidence.BundleType, index, nil, []byte("{"), []byte("}"))
	w.hang(t, evidence.BundleType, index, make([]byte, tooLarge), []byte("{}"))
	w.hang(t, evidence.SBOMType, index, nil)
	file, content := w.export(t)
	if len(content) > 2*len(honest) {
		t.Errorf("the export has %d bytes, without them %d", len(content), len(honest))
	}
	for where, registry := range map[string]pipeline.Registry{"online": w.again(), "offline": file} {
		v := w.verifier
		v.Registry = registry
		if _, err := v.Channel(t.Context(), "dev", w.now); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// hang attaches a manifest of this type, config and layers to a manifest of tiny-1; no config is the empty one.
func (w *world) hang(t *testing.T, artifactType string, subject graph.Node, config []byte, layers ...[]byte) {
	t.Helper()
	repo, m := w.registry.Repository("tiny-1"), ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType}
	m.SchemaVersion, m.Subject = 2, &subject
	if config == nil {
		config = ocispec.DescriptorEmptyJSON.Data
	}
	m.Config = must(graph.PushBytes(t.Context(), repo, ocispec.DescriptorEmptyJSON.MediaType, config))
	for _, layer := range layers {
		m.Layers = append(m.Layers, must(graph.PushBytes(t.Context(), repo, artifactType, layer)))
	}
	must(graph.PushBytes(t.Context(), repo, m.MediaType, must(json.Marshal(m))))
}

func TestAnEvidenceFileIsNotWrittenTo(t *testing.T) {
	file, _ := newWorld(t, plot{}).export(t)
	repo := file.Repository("tiny-1")
	_, tagged := repo.TagImmutable(t.Context(), "x", graph.Node{})
	_, moved := repo.MoveTag(t.Context(), release.Move{})
	for _, err := range []error{
		repo.Push(t.Context(), graph.Node{}, nil), repo.CopyFrom(t.Context(), nil, graph.Node{}), tagged, moved,
		repo.Attach(t.Context(), graph.Node{}, "", nil, nil), repo.Settle(t.Context()),
	} {
		if !errors.Is(err, fault.Refused) {
			t.Errorf("a write gives %v, want Refused", err)
		}
	}
	if tags, err := repo.Tags(t.Context()); err != nil || !slices.Equal(tags, []string{"dev", "sha-" + widgetCommit}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
}

// entries reads a tar back, for tests that write it again otherwise.
func entries(content []byte) []tarEntry {
	var all []tarEntry
	r := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		all = append(all, tarEntry{*must(h, err), must(io.ReadAll(r))})
	}
}

type tarEntry struct {
	header  tar.Header
	content []byte
}

func pack(all []tarEntry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range all {
		e.header.Size = int64(len(e.content))
		if e.header.Typeflag != tar.TypeReg {
			e.header.Size = 0
		}
		if err := w.WriteHeader(&e.header); err != nil {
			panic(err)
		}
		_, _ = w.Write(e.content[:e.header.Size])
	}
	_ = w.Close()
	return out.Bytes()
}

func FuzzOpenFile(f *testing.F) {
	_, honest := newWorld(f, plot{images: 1}).export(f)
	f.Add(honest)
	f.Add(pack([]tarEntry{{tar.Header{Name: "oci-layout", Typeflag: tar.TypeReg}, []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {tar.Header{Name: "index.json", Typeflag: tar.TypeReg}, []byte(`{}`)}}))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := verify.OpenFile(bytes.NewReader(content))
		if _, classified := fault.KindOf(err); err != nil && !classified {
			t.Errorf("an error without a kind: %v", err)
		}
		if err == nil {
			n, found, err := file.Repository("tiny-metadata").Resolve(t.Context(), release.ChannelsTag)
			if found && err == nil {
				if _, err := graph.Fetch(t.Context(), file.Repository("tiny-metadata"), n, graph.MaxManifest); err != nil {
					t.Errorf("a name without content: %v", err)
				}
			}
		}
	})
}

// A family of eight images on two platforms is verified from one evidence file in less than a second.
func BenchmarkEightImagesFromOneEvidenceFile(b *testing.B) {
	w := newWorld(b, plot{images: 8})
	_, content := w.export(b)
	b.ReportMetric(float64(len(content)), "file-bytes")
	bundles := 0
	for b.Loop() {
		file, err := verify.OpenFile(bytes.NewReader(content))
		if err != nil {
			b.Fatal(err)
		}
		v := w.verifier
		v.Registry = file
		r, err := v.Channel(b.Context(), "dev", w.now)
		if err != nil {
			b.Fatal(err)
		}
		bundles = 0
		for _, c := range r.Checks {
			if len(c.Compared) > 0 {
				bundles++
			}
		}
	}
	b.ReportMetric(float64(bundles), "bundles")
}
