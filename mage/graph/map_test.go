package graph_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/ref"
)

func place(repo, name string) ref.Pinned {
	return ref.Pinned{Repo: ref.Repo{Host: "example.com", Path: "acme/" + repo}, Digest: digest.FromString(name)}
}

func lists(names ...string) graph.Links {
	var l graph.Links
	for _, n := range names {
		l.Children = append(l.Children, graph.Node{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(n)})
	}
	return l
}

// small is a record that pins an index over two children, one of which is missing and one of which
// has a signature.
func small() *graph.Map {
	return graph.NewMap([]graph.Item{
		{At: place("metadata", "record"), Locks: []ref.Pinned{place("app", "index")}},
		{At: place("app", "index"), Links: lists("amd64", "arm64")},
		{At: place("app", "amd64")},
		{At: place("app", "signature"), Links: graph.Links{Subject: digest.FromString("amd64")}},
		{At: place("app", "orphan")},
	}, nil)
}

func TestAWalkKnowsTheWayAndWhereItEndsTooEarly(t *testing.T) {
	w := small().Walk([]graph.Root{{At: place("metadata", "record"), Why: "dev serves it"}, {At: place("app", "lost"), Why: "prod serves it"}})
	var path []string
	for _, s := range w.Path(place("app", "signature")) {
		path = append(path, string(s.Via)+s.Why)
	}
	if got := strings.Join(path, " → "); got != "dev serves it → lock → child → referrer" {
		t.Errorf("the way is %s", got)
	}
	if w.Has(place("app", "orphan")) || w.Path(place("app", "orphan")) != nil || w.Path(place("app", "unheard of")) != nil {
		t.Error("there is a way to what nothing leads to")
	}
	var holes []string
	for _, h := range w.Holes() {
		holes = append(holes, fmt.Sprint(h.At.Digest == place("", "arm64").Digest, h.At.Digest == place("", "lost").Digest, h.Missing))
	}
	if len(holes) != 2 || !strings.Contains(strings.Join(holes, ","), "true false true") || !strings.Contains(strings.Join(holes, ","), "false true true") {
		t.Errorf("holes %v", holes)
	}
}

func TestDownwardsIsFromWhatNamesToWhatIsNamed(t *testing.T) {
	names := map[digest.Digest]string{}
	var places []ref.Pinned
	for _, n := range []string{"app/signature", "app/amd64", "app/index", "metadata/record", "app/unheard of"} {
		repo, name, _ := strings.Cut(n, "/")
		places = append(places, place(repo, name))
		names[digest.FromString(name)] = name
	}
	var order []string
	for _, p := range small().Downwards(places) {
		order = append(order, names[p.Digest])
	}
	if got := strings.Join(order, ", "); got != "record, index, amd64, signature" {
		t.Errorf("the order is %s", got)
	}
}

func ExampleMap_Walk() {
	w := small().Walk([]graph.Root{{At: place("metadata", "record"), Why: "dev serves sha-1"}})
	for _, step := range w.Path(place("app", "amd64")) {
		fmt.Println(step)
	}
	// Output:
	// dev serves sha-1: metadata@70ce871f8a3d
	// lock app@1bc04b5291c2
	// child app@5861314d7fcc
}
