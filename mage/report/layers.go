package report

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
)

// Platform is a member on one platform: what is pulled there.
type Platform struct {
	Platform string  `json:"platform"`
	Size     int64   `json:"size"` // bytes of all layers, as transferred
	Layers   []Layer `json:"layers"`
}

// Layer is one layer, lowest first.
type Layer struct {
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"` // bytes, as transferred
	From        string        `json:"from"` // the image that brought it
	Instruction string        `json:"instruction,omitempty"`
}

// Settle says of every layer which image brought it, and what its instruction was.
func (m *Model) Settle(reports []evidence.Report) {
	instructions := map[digest.Digest]string{}
	for _, r := range reports {
		for _, l := range r.Layers {
			instructions[l.Digest] = l.Instruction
		}
	}
	for i := range m.Members {
		for j := range m.Members[i].Platforms {
			for k := range m.Members[i].Platforms[j].Layers {
				l := &m.Members[i].Platforms[j].Layers[k]
				l.From, l.Instruction = m.brought(m.Members[i].Name, l.Digest), instructions[l.Digest]
			}
		}
	}
}

// brought is the lowest image below a member that has a layer.
func (m *Model) brought(name string, layer digest.Digest) string {
	for range m.Members { // no chain of parents is longer
		i := slices.IndexFunc(m.Members, func(member Member) bool { return member.Name == name })
		parent := slices.IndexFunc(m.Members, func(member Member) bool { return member.Name == m.Members[i].From })
		if parent < 0 || !m.Members[parent].has(layer) {
			break
		}
		name = m.Members[parent].Name
	}
	return name
}

func (m Member) has(layer digest.Digest) bool {
	return slices.ContainsFunc(m.Platforms, func(p Platform) bool {
		return slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.Digest == layer })
	})
}
