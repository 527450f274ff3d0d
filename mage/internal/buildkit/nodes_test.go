package buildkit

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/fault"
)

func TestNodesOfOneBuilderRunOneVersion(t *testing.T) {
	amd64 := node{Name: "amd64", Endpoint: "tcp://a:1", Version: "v0.34.2"}
	arm64 := node{Name: "arm64", Endpoint: "tcp://b:1", Version: "v0.34.2"}
	if got, err := commonVersion([]node{amd64, arm64}); got != "0.34.2" || err != nil {
		t.Errorf("commonVersion = %q, %v", got, err)
	}
	arm64.Version = "v0.33.0"
	_, err := commonVersion([]node{amd64, arm64})
	if !errors.Is(err, fault.Environment) || !strings.Contains(err.Error(), "node arm64 at tcp://b:1") || fault.HintOf(err) == "" {
		t.Errorf("commonVersion = %v, want fault.Environment that names the node", err)
	}
}

func TestSeveralNodesSolveEachPlatformAlone(t *testing.T) {
	platforms := []string{"linux/amd64", "linux/arm64"}
	b := &Builder{nodes: make([]node, 1)}
	if got := b.solves(platforms, "dir"); len(got) != 1 || !slices.Equal(got[0].platforms, platforms) {
		t.Errorf("one node solves %v, want everything at once", got)
	}
	var events []Event
	b = &Builder{nodes: make([]node, 2), options: Options{Progress: func(e Event) { events = append(events, e) }}}
	solves := b.solves(platforms, "dir")
	if len(solves) != 2 || solves[0].layout("tiny") == solves[1].layout("tiny") {
		t.Fatalf("two nodes solve %v", solves)
	}
	step := `{"vertexes":[{"digest":"sha256:aa","name":"[tiny 1/1] RUN make","started":"2026-11-25T00:00:00Z","completed":"2026-11-25T00:00:01Z"}]}`
	for _, m := range b.meters(solves) {
		m.line(step)
	}
	want := []Event{
		{Image: "tiny", Platform: "linux/amd64", Step: "1/1 RUN make", Finished: true, Done: 1, Total: 1},
		{Image: "tiny", Platform: "linux/arm64", Step: "1/1 RUN make", Finished: true, Done: 2, Total: 2},
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("the events are not those of one build (-want +got):\n%s", diff)
	}
}
