package retention

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// Leaves are what goes by a plan, without the registry's address, which may be another in every run:
// name@sha256:… with its tags, or name:tag.
type Leaves []string

// Leaves lists what goes by the plan, sorted.
func (p Plan) Leaves(base string) Leaves {
	list := Leaves{}
	for _, d := range p.Deletes {
		list = append(list, strings.TrimPrefix(fmt.Sprint(d.At, " ", strings.Join(d.Tags, " ")), base+"/"))
	}
	for _, u := range p.Unnames {
		repo, _, _ := strings.Cut(strings.TrimPrefix(u.At, base+"/"), "@")
		for _, tag := range u.Tags {
			list = append(list, repo+":"+tag+" of "+u.Item.At.Digest.String())
		}
	}
	slices.Sort(list)
	return list
}

// Drift is the error when by a plan of now something else goes, or nil.
func (l Leaves) Drift(now Leaves) error {
	for _, is := range []struct {
		in, out Leaves
		what    string
	}{{l, now, "was to go and is not any more"}, {now, l, "is to go now and was not"}} {
		for _, leaf := range is.in {
			if _, found := slices.BinarySearch(is.out, leaf); !found {
				return fault.New(fault.Conflict, "applying", "plan", "the registry changed since it was made: %s %s", strings.TrimSpace(leaf), is.what).
					WithHint("plan again: mage ops:prune -out=FILE")
			}
		}
	}
	return nil
}
