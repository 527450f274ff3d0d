package release

import "github.com/containai/containai/mage/family"

// Purpose is what a build is made for.
type Purpose int

// The purposes.
const (
	Channel  Purpose = iota // a release to a channel, also one that stops after a stage
	Proposal                // release:pr and inspect:all: the pipeline as far as it writes to no registry
	Work                    // build:all and what else one does beside releasing
)

// CacheUse is what a build does with a cache that it shares with other machines.
type CacheUse struct{ Take, Fill bool }

// CacheFor decides it. Whoever can write to such a cache decides what others build: it is looked up by
// what a step is, and what the step made is believed. So a release takes one only where its channel
// allows that, and a proposal, which may be anybody's, never fills one.
func CacheFor(p Purpose, gate family.Gate) CacheUse {
	switch p {
	case Proposal:
		return CacheUse{Take: true}
	case Work:
		return CacheUse{Take: true, Fill: true}
	}
	return CacheUse{Take: gate.Cache, Fill: true}
}
