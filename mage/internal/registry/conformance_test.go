package registry_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

const (
	sbomType  = "application/vnd.cyclonedx+json"
	proofType = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// onEvery runs one promise against every target.
func onEvery(t *testing.T, promise func(t *testing.T, open func() (store, func() registry.Counts))) {
	for _, target := range targets() {
		t.Run(target.name, func(t *testing.T) {
			t.Parallel()
			promise(t, target.open(t))
		})
	}
}

func TestAnImageComesBackAsItWasCopied(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		src, n := copied(t, s, 1)
		if err := registry.Verify(t.Context(), s, n); err != nil {
			t.Fatal(err)
		}
		back, err := registry.OpenLayout(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		fresh, _ := open()
		if err := registry.Copy(t.Context(), fresh, back, n); err != nil {
			t.Fatal(err)
		}
		if err := registry.Verify(t.Context(), back, n); err != nil {
			t.Fatal(err)
		}
		want, _ := graph.Fetch(t.Context(), src, n, graph.MaxManifest)
		got, err := graph.Fetch(t.Context(), back, n, graph.MaxManifest)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("index came back as %s, %v", got, err)
		}
	})
}

func TestASecondRunWritesNothing(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		run := func(s store) (graph.Node, []bool) {
			src := memory.New()
			n := image(t, src, 2)
			if err := registry.Copy(t.Context(), src, s, n); err != nil {
				t.Fatal(err)
			}
			_, attached, err := s.Attach(t.Context(), n, sbomType, registry.Layer{MediaType: sbomType, Content: []byte(`{"bom":1}`)}, map[string]string{"a": "b"})
			if err != nil {
				t.Fatal(err)
			}
			tagged, err := s.TagImmutable(t.Context(), "sha-1", n)
			if err != nil {
				t.Fatal(err)
			}
			moved, err := s.MoveTag(t.Context(), move(s, "dev", "", n))
			if err != nil {
				t.Fatal(err)
			}
			return n, []bool{attached, tagged, moved}
		}
		first, _ := open()
		n, wrote := run(first)
		if diff := cmp.Diff([]bool{true, true, true}, wrote); diff != "" {
			t.Errorf("first run: %s", diff)
		}
		second, counts := open()
		again, wrote := run(second)
		if diff := cmp.Diff([]bool{false, false, false}, wrote); diff != "" {
			t.Errorf("second run: %s", diff)
		}
		if again.Digest != n.Digest || counts().Writes != 0 {
			t.Errorf("second run gave %s and sent %+v", again.Digest, counts())
		}
	})
}

func TestWhatIsNotThereIsNotAnError(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		if n, there, err := s.Resolve(t.Context(), "dev"); there || err != nil {
			t.Errorf("Resolve = %v, %v, %v", n, there, err)
		}
		if tags, err := s.Tags(t.Context()); len(tags) > 0 || err != nil {
			t.Errorf("Tags = %v, %v", tags, err)
		}
		absent := graph.NewNode(ocispec.MediaTypeImageManifest, []byte("{}"))
		if found, err := s.Referrers(t.Context(), absent); len(found) > 0 || err != nil {
			t.Errorf("Referrers = %v, %v", found, err)
		}
		if there, err := s.Exists(t.Context(), absent); there || err != nil {
			t.Errorf("Exists = %v, %v", there, err)
		}
		if _, err := s.Fetch(t.Context(), absent); !errors.Is(err, fault.Conflict) {
			t.Errorf("Fetch = %v, want a Conflict", err)
		}
	})
}

func TestAnImmutableTagNeverChanges(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		_, a := copied(t, s, 3)
		_, b := copied(t, s, 4)
		if written, err := s.TagImmutable(t.Context(), "v1.0.0", a); !written || err != nil {
			t.Fatalf("creating: %v, %v", written, err)
		}
		if written, err := s.TagImmutable(t.Context(), "v1.0.0", a); written || err != nil {
			t.Errorf("repeating: %v, %v", written, err)
		}
		written, err := s.TagImmutable(t.Context(), "v1.0.0", b)
		if written || !errors.Is(err, fault.Immutable) || !strings.Contains(err.Error(), a.Digest.String()) || !strings.Contains(err.Error(), b.Digest.String()) {
			t.Errorf("changing: %v, %v", written, err)
		}
		if now, _, err := s.Resolve(t.Context(), "v1.0.0"); now.Digest != a.Digest || err != nil {
			t.Errorf("it names %s, %v", now.Digest, err)
		}
	})
}

func TestATagMovesOnlyFromWhereThePlanSawIt(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		_, a := copied(t, s, 5)
		_, b := copied(t, s, 6)
		steps := []struct {
			name    string
			move    release.Move
			written bool
			kind    fault.Kind
		}{
			{"a tag that should exist does not", move(s, "dev", b.Digest, a), false, fault.Conflict},
			{"a new tag is made", move(s, "dev", "", a), true, 0},
			{"a repeated move writes nothing", move(s, "dev", "", a), false, 0},
			{"a tag that should not exist does", move(s, "dev", "", b), false, fault.Conflict},
			{"a tag moves", move(s, "dev", a.Digest, b), true, 0},
			{"the same move again writes nothing", move(s, "dev", a.Digest, b), false, 0},
			{"a tag goes back", move(s, "dev", b.Digest, a), true, 0},
		}
		for _, step := range steps {
			written, err := s.MoveTag(t.Context(), step.move)
			kind, _ := fault.KindOf(err)
			if written != step.written || kind != step.kind {
				t.Errorf("%s: %v, %v", step.name, written, err)
			}
		}
		fresh, _ := open()
		if now, there, err := fresh.Resolve(t.Context(), "dev"); !there || now.Digest != a.Digest || err != nil {
			t.Errorf("dev names %s, %v, %v", now.Digest, there, err)
		}
	})
}

func TestE4TagsOutsideTheGrammarAreRefusedBeforeAnyRequest(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, counts := open()
		n := graph.NewNode(ocispec.MediaTypeImageManifest, []byte("{}"))
		for _, tag := range []string{"", ".dev", "-dev", "a/b", "a:b", "a b", "ä", strings.Repeat("x", 129), "sha256-" + strings.Repeat("0", 64), "sha256-x"} {
			if _, err := s.TagImmutable(t.Context(), tag, n); !errors.Is(err, fault.Invalid) {
				t.Errorf("TagImmutable(%q) = %v", tag, err)
			}
			if _, err := s.MoveTag(t.Context(), move(s, tag, "", n)); !errors.Is(err, fault.Invalid) {
				t.Errorf("MoveTag(%q) = %v", tag, err)
			}
			if _, _, err := s.Resolve(t.Context(), tag); !errors.Is(err, fault.Invalid) {
				t.Errorf("Resolve(%q) = %v", tag, err)
			}
		}
		if c := counts(); c.Reads+c.Writes > 0 {
			t.Errorf("requests were sent: %+v", c)
		}
	})
}

func TestEvidenceIsListedAsItsManifestDescribesIt(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		_, n := copied(t, s, 7)
		sbom := registry.Layer{MediaType: sbomType, Content: []byte(`{"bom":7}`)}
		a, _, err := s.Attach(t.Context(), n, sbomType, sbom, map[string]string{"one": "1"})
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := s.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte(`{}`)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		fresh, _ := open()
		got, err := fresh.Referrers(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		want := []registry.Referrer{
			{Node: a, ArtifactType: sbomType, Annotations: map[string]string{"one": "1"}, Layers: []graph.Node{graph.NewNode(sbomType, sbom.Content)}},
			{Node: b, ArtifactType: proofType, Layers: []graph.Node{graph.NewNode(proofType, []byte(`{}`))}},
		}
		if a.Digest > b.Digest {
			want[0], want[1] = want[1], want[0]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		content, err := graph.Fetch(t.Context(), fresh, want[0].Layers[0], 1<<20)
		if err != nil || len(content) == 0 {
			t.Errorf("the layer reads %q, %v", content, err)
		}
	})
}

func TestManyAttachersOnOneSubjectLoseNothing(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		_, n := copied(t, s, 8)
		var wait sync.WaitGroup
		for i := range 6 {
			wait.Go(func() {
				if _, _, err := s.Attach(t.Context(), n, proofType, registry.Layer{MediaType: proofType, Content: []byte{byte('0' + i)}}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		fresh, _ := open()
		if found, err := fresh.Referrers(t.Context(), n); len(found) != 6 || err != nil {
			t.Errorf("%d referrers, %v", len(found), err)
		}
	})
}

func TestContentThatIsNotWhatItIsCalledIsNotStored(t *testing.T) {
	onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
		s, _ := open()
		said := noise(9, 4096)
		longer, shorter, other := append(bytes.Clone(said), 0), said[:4095], bytes.Repeat([]byte{7}, 4096)
		for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageManifest} {
			n := graph.NewNode(mediaType, said)
			for name, content := range map[string][]byte{"longer": longer, "shorter": shorter, "other": other} {
				if err := s.Push(t.Context(), n, bytes.NewReader(content)); err == nil {
					t.Errorf("%s bytes for a %s were accepted", name, mediaType)
				}
				there, err := s.Exists(t.Context(), n)
				if err != nil {
					t.Fatal(err)
				}
				if !there {
					continue // the usual end; a registry may also keep the right bytes of a longer body
				}
				if got, err := graph.Fetch(t.Context(), s, n, 1<<20); !bytes.Equal(got, said) {
					t.Errorf("after pushing %s bytes a %s reads %d others, %v", name, mediaType, len(got), err)
				}
			}
		}
	})
}

func TestAnArtifactHasTheSameDigestEverywhere(t *testing.T) {
	digests := map[digest.Digest]bool{}
	var mu sync.Mutex
	t.Run("packing", func(t *testing.T) {
		onEvery(t, func(t *testing.T, open func() (store, func() registry.Counts)) {
			s, _ := open()
			payload := push(t, s, "application/vnd.containai.payload.layer.v1+gzip", []byte("payload"))
			n, err := graph.PackArtifact(t.Context(), s, "application/vnd.containai.payload.v1", []graph.Node{payload}, map[string]string{"b": "2", "a": "1"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.TagImmutable(t.Context(), "v1", n); err != nil {
				t.Fatal(err)
			}
			if err := registry.Verify(t.Context(), s, n); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			digests[n.Digest] = true
		})
	})
	if len(digests) != 1 {
		t.Errorf("digests %v", digests)
	}
}

// move is a move of a tag in s; a layout is one repository, whatever the move calls it.
func move(s store, tag string, from digest.Digest, to graph.Node) release.Move {
	m := release.Move{Tag: ref.Tagged{Tag: tag}, From: from, To: to}
	if r, ok := s.(*registry.Repository); ok {
		m.Tag.Repo = r.Name()
	}
	return m
}
