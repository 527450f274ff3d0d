package mage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// status is what release:status prints.
type status struct {
	Family   string                   `json:"family"`
	Tag      string                   `json:"tag"`
	Registry string                   `json:"registry"`
	State    string                   `json:"state"`
	Built    bool                     `json:"built"`
	Record   string                   `json:"record,omitempty"` // digest, when published
	Missing  int                      `json:"missingStatements"`
	Channels map[string]release.State `json:"channels"`
	Serving  []string                 `json:"serving"` // channels that serve this source
	Next     string                   `json:"next"`
}

// releaseStatus says where this commit stands; it writes nothing.
func releaseStatus() command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx, false)
		if err != nil {
			return err
		}
		st, err := w.status(ctx, p, plan)
		if err != nil {
			return err
		}
		st.State = st.reached()
		return w.print(st, func() string { return statusText(st) })
	}
}

// reached says in one word or two how far the release came.
func (st status) reached() string {
	switch {
	case st.Record == "" && !st.Built:
		return "not built"
	case st.Record == "":
		return "built"
	case st.Missing > 0:
		return "attest pending"
	case len(st.Serving) == 0:
		return "attested"
	}
	return "served"
}

func (w *workshop) status(ctx context.Context, p *pipeline.Pipeline, plan release.Plan) (status, error) {
	st := status{Family: w.fam.Name, Tag: plan.Source.Tag(), Registry: w.public, Next: releaseCommand(w.fam), Serving: []string{}}
	record, built, err := p.Dist.ReadRecord()
	if err != nil {
		return st, err
	}
	st.Built = built && record.Source.Tag() == plan.Source.Tag()
	head, err := p.Ledger.Head(ctx)
	if err != nil {
		return st, err
	}
	st.Channels = head.Document.Channels
	pub, found, err := p.Adopt(ctx, plan.Source)
	if err != nil || !found {
		return st, err
	}
	st.Record = pub.Node.Digest.String()
	claims := release.Claims(w.fam, pub.Record, pub.Node)
	have, err := pipeline.Collect(ctx, p.Registry, p.Verifier, claims, "", nil)
	if err != nil {
		return st, err
	}
	st.Missing = len(have.Missing(claims))
	for _, name := range head.Document.Names() {
		if st.Channels[name].Record == pub.Node.Digest {
			st.Serving = append(st.Serving, name)
		}
	}
	if len(st.Serving) > 0 && st.Missing == 0 {
		st.Next = "nothing: mage verify:channel " + st.Serving[0] + " checks it"
	}
	return st, nil
}

func statusText(st status) string {
	yes := map[bool]string{true: "yes", false: "no"}
	table := term.Table{Rows: [][]string{
		{"this source", st.Tag},
		{"state", st.State},
		{"built here", yes[st.Built]},
		{"published", yes[st.Record != ""]},
		{"statements missing", fmt.Sprint(st.Missing)},
		{"served by", strings.Join(st.Serving, ", ")},
		{"next", st.Next},
	}}
	out := table.String()
	if len(st.Channels) == 0 {
		return out + "\nno channel serves anything yet\n"
	}
	channels := term.Table{Head: []string{"channel", "generation", "release", "moved"}}
	for _, name := range slices.Sorted(maps.Keys(st.Channels)) {
		c := st.Channels[name]
		channels.Rows = append(channels.Rows, []string{name, fmt.Sprint(c.Generation), c.Tag, c.Moved.At.Format("2006-01-02 15:04") + " by " + c.Moved.By})
	}
	return out + "\n" + channels.String()
}
