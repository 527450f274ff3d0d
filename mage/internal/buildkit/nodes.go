package buildkit

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containai/containai/mage/fault"
)

// node is one BuildKit of a Buildx builder, as `buildx ls` shows it.
type node struct {
	Name      string
	Endpoint  string
	Err       string // why it does not answer; Buildx does not always say
	Version   string // empty when it does not answer
	Platforms []string
}

// absent finds a node that does not answer.
func absent(nodes []node) (node, bool) {
	i := slices.IndexFunc(nodes, func(n node) bool { return n.Version == "" })
	if i < 0 {
		return node{}, false
	}
	return nodes[i], true
}

func (n node) String() string { return fmt.Sprintf("node %s at %s", n.Name, n.Endpoint) }

// silent is the error of a builder of which a node does not answer. Why, Buildx says in its listing or
// said when it was asked to start it.
func (b *Builder) silent(n node, said error) error {
	why := n.Err
	if why == "" && said != nil {
		why = said.Error()
	}
	return fault.New(fault.Environment, "starting builder", b.name, "%s does not answer: %s", n, why).
		WithHint("start BuildKit there, and see that it takes the builder's certificate: docker buildx inspect %s; or go without it: docker buildx create --name %s --leave --node %s", b.name, b.name, n.Name)
}

// commonVersion returns the version that all nodes have. Others might give other bytes, and one name
// in the record would be wrong for some of them.
func commonVersion(nodes []node) (string, error) {
	var version string
	for _, n := range nodes {
		if version != "" && n.Version != version {
			return "", fault.New(fault.Environment, "asking", n.String(), "it runs BuildKit %s, %s runs %s", n.Version, nodes[0], version).
				WithHint("let every node of the builder run the same BuildKit")
		}
		version = n.Version
	}
	return strings.TrimPrefix(version, "v"), nil
}

// solve is one run of Buildx: the whole family for platforms.
type solve struct {
	platforms []string
	dir, out  string // the build's temporary directory; where below it the layouts go
}

// layout is where an image's own layout goes.
func (s solve) layout(image string) string { return filepath.Join(s.dir, s.out, image) }

// solves is one, unless the builder has several nodes: then it is one for each platform, since Buildx
// writes an OCI layout from one node alone. Buildx sends each to the node that runs the platform.
// https://github.com/docker/buildx/blob/v0.38.2/build/build.go: "oci for multi-node builds currently
// not supported". When it is, this can go.
func (b *Builder) solves(platforms []string, dir string) []solve {
	if len(b.nodes) < 2 {
		return []solve{{platforms, dir, "out"}}
	}
	all := make([]solve, len(platforms))
	for i, platform := range platforms {
		all[i] = solve{[]string{platform}, dir, "out" + strconv.Itoa(i)}
	}
	return all
}

// meters read solves that run at the same time: their steps are added up, and each names its platform.
func (b *Builder) meters(solves []solve) []*meter {
	t := &tally{progress: b.options.Progress, done: make([]int, len(solves)), total: make([]int, len(solves))}
	meters := make([]*meter, len(solves))
	for i, s := range solves {
		meters[i] = newMeter(t.of(i))
		if len(solves) > 1 {
			meters[i].platform = s.platforms[0]
		}
	}
	return meters
}

// tally adds up the steps of solves that run at the same time.
type tally struct {
	mu          sync.Mutex
	progress    func(Event)
	done, total []int
}

func (t *tally) of(i int) func(Event) {
	return func(e Event) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.done[i], t.total[i] = e.Done, e.Total
		e.Done, e.Total = 0, 0
		for j := range t.done {
			e.Done, e.Total = e.Done+t.done[j], e.Total+t.total[j]
		}
		t.progress(e)
	}
}
