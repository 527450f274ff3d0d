package verify

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// Component is one entry of an SBOM.
type Component struct {
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Type     string   `json:"type"`
	Licences []string `json:"licences,omitempty"` // SPDX identifiers, expressions or names, sorted
}

// Change is a component that two SBOMs do not have alike. Without Before it came, without After it
// went.
type Change struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Before string `json:"before,omitempty"` // version
	After  string `json:"after,omitempty"`
}

// component is CycloneDX's, specification 1.6, "components".
type component struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Type     string `json:"type"`
	Licenses []struct {
		Expression string `json:"expression"`
		License    struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"license"`
	} `json:"licenses"`
}

// Components reads the components of a CycloneDX document, sorted by name, type and version.
func Components(document []byte) ([]Component, error) {
	var b struct {
		Components []component `json:"components"`
	}
	if err := json.Unmarshal(document, &b); err != nil {
		return nil, fault.Wrap(err, fault.Forged, "reading", "SBOM")
	}
	list := make([]Component, len(b.Components))
	for i, c := range b.Components {
		list[i] = Component{Name: c.Name, Version: c.Version, Type: c.Type, Licences: c.licences()}
	}
	slices.SortFunc(list, func(a, b Component) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Type, b.Type), strings.Compare(a.Version, b.Version))
	})
	return list, nil
}

func (c component) licences() []string {
	var names []string
	for _, l := range c.Licenses {
		if name := cmp.Or(l.Expression, l.License.ID, l.License.Name); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Compare returns what came, went, or changed its version between two lists of components.
func Compare(before, after []Component) []Change {
	type key struct{ name, kind string }
	versions := func(list []Component) map[key][]string {
		all := map[key][]string{}
		for _, c := range list {
			k := key{c.Name, c.Type}
			all[k] = append(all[k], c.Version)
		}
		return all
	}
	old, now := versions(before), versions(after)
	var changes []Change
	for k, was := range old {
		if !slices.Equal(was, now[k]) {
			changes = append(changes, Change{k.name, k.kind, strings.Join(was, ", "), strings.Join(now[k], ", ")})
		}
	}
	for k, is := range now {
		if _, ok := old[k]; !ok {
			changes = append(changes, Change{Name: k.name, Type: k.kind, After: strings.Join(is, ", ")})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Type, b.Type))
	})
	return changes
}
