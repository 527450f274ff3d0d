package release_test

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

func TestF5AReleaseTakesNoCacheThatAPullRequestCouldHaveWritten(t *testing.T) {
	refuses, allows := family.Gate{}, family.Gate{Cache: true}
	for name, test := range map[string]struct {
		purpose release.Purpose
		gate    family.Gate
		want    release.CacheUse
	}{
		"a release to a channel that says nothing":   {release.Channel, refuses, release.CacheUse{Fill: true}},
		"a release to a channel that allows caches":  {release.Channel, allows, release.CacheUse{Take: true, Fill: true}},
		"a pull request reads what releases left":    {release.Proposal, refuses, release.CacheUse{Take: true}},
		"a pull request never writes, also not here": {release.Proposal, allows, release.CacheUse{Take: true}},
		"work on a machine":                          {release.Work, refuses, release.CacheUse{Take: true, Fill: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := release.CacheFor(test.purpose, test.gate); got != test.want {
				t.Errorf("CacheFor() = %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestF5TheGateRefusesWhatACacheMade: what was built with a cache earlier, for a channel that allows it, does
// not reach one that does not, also not by promotion, which asks the gate again.
func TestF5TheGateRefusesWhatACacheMade(t *testing.T) {
	r := record()
	image := r.Images["app"]
	image.Cached = true
	r.Images["app"] = image
	set := release.Evidenced{Built: release.Built{Record: r}, Reports: reports(r)}
	if _, err := (release.Gate{Channel: "prod"}).Approve(set, now); !errors.Is(err, fault.Refused) {
		t.Errorf("a channel that refuses caches: %v, want Refused", err)
	}
	allowing := release.Gate{Channel: "dev", Rules: family.Channel{Gate: family.Gate{Cache: true}}}
	if _, err := allowing.Approve(set, now); err != nil {
		t.Errorf("a channel that allows caches: %v", err)
	}
}
