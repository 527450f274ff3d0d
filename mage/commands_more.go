package mage

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
	"github.com/containai/containai/mage/verify"
)

// buildImage builds one image and what it stands on, into the layout and a Docker engine.
func buildImage(name string) command {
	return func(ctx context.Context, s *session) error {
		w, p, plan, err := s.openPipeline(ctx)
		if err != nil {
			return err
		}
		builder, ok := p.Builder.(*builderPort)
		if !ok {
			return fault.New(fault.Invalid, "building", name, "this pipeline has no builder of images")
		}
		builder.only = []string{name}
		images, err := builder.Build(ctx, plan)
		if err != nil {
			return err
		}
		built := release.Built{Plan: plan, Record: release.Record{Images: images.Images, Source: plan.Source}}
		if err := w.loadIntoEngine(ctx, p, built); err != nil {
			return err
		}
		w.progress.settle()
		return w.print(images.Images, func() string {
			table := term.Table{Head: []string{"image", "digest"}}
			for _, n := range slices.Sorted(maps.Keys(images.Images)) {
				table.Rows = append(table.Rows, []string{n, images.Images[n].Index.Digest.String()})
			}
			return table.String()
		})
	}
}

// planned is what build:plan prints.
type planned struct {
	Family    string         `json:"family"`
	Tag       string         `json:"tag"`
	Platforms []string       `json:"platforms"`
	Bake      string         `json:"bake"`
	Images    []plannedImage `json:"images"`
	Artifacts []string       `json:"artifacts"`
}

type plannedImage struct {
	Name  string `json:"name"`
	From  string `json:"from"`
	Smoke int    `json:"smokeTests"`
}

// buildPlan prints what a build would make; nothing is started.
func buildPlan() command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		plan, err := w.plan(ctx)
		if err != nil {
			return err
		}
		out := planned{Family: w.fam.Name, Tag: plan.Source.Tag(), Platforms: plan.Platforms, Bake: w.fam.Bake, Artifacts: w.fam.ArtifactNames()}
		table := term.Table{Head: []string{"image", "from", "smoke tests"}}
		for _, name := range w.fam.ImageNames() {
			image := w.fam.Images[name]
			from := image.From
			if from == "" {
				from = w.fam.Base.Image
			}
			out.Images = append(out.Images, plannedImage{name, from, len(image.Smoke)})
			table.Rows = append(table.Rows, []string{name, from, fmt.Sprint(len(image.Smoke))})
		}
		return w.print(out, func() string {
			return fmt.Sprintf("%s from %s for %s\n\n%s", out.Tag, out.Bake, strings.Join(out.Platforms, ", "), table)
		})
	}
}

// status is what release:status prints.
type status struct {
	Family   string                   `json:"family"`
	Tag      string                   `json:"tag"`
	Registry string                   `json:"registry"`
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
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		plan, err := w.plan(ctx)
		if err != nil {
			return err
		}
		p, err := w.pipeline(ctx, plan)
		if err != nil {
			return err
		}
		st, err := w.status(ctx, p, plan)
		if err != nil {
			return err
		}
		return w.print(st, func() string { return statusText(st) })
	}
}

func (w *workshop) status(ctx context.Context, p *pipeline.Pipeline, plan release.Plan) (status, error) {
	st := status{Family: w.fam.Name, Tag: plan.Source.Tag(), Registry: w.public, Next: "mage release:dev", Serving: []string{}}
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
	have, err := pipeline.Collect(ctx, p.Registry, p.Verifier, claims, plan.Source.Commit, nil)
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

// reconcile derives the channel tags from the ledger.
func reconcile(apply bool) command {
	return func(ctx context.Context, s *session) error {
		w, p, _, err := s.openPipeline(ctx)
		if err != nil {
			return err
		}
		head, err := p.Ledger.Head(ctx)
		if err != nil {
			return err
		}
		act := p.PlanReconcile
		if apply {
			act = p.Reconcile
		}
		moves, err := act(ctx, head)
		if err != nil {
			return err
		}
		var lines []string
		for _, m := range moves {
			lines = append(lines, m.String())
		}
		w.progress.settle()
		return w.print(lines, func() string { return movesText(lines, apply) })
	}
}

func movesText(lines []string, applied bool) string {
	switch {
	case len(lines) == 0:
		return "every tag is where the ledger says: nothing to do\n"
	case applied:
		return "moved:\n  " + strings.Join(lines, "\n  ") + "\n"
	}
	return "would move:\n  " + strings.Join(lines, "\n  ") + "\nrun with -apply to do it\n"
}

// verifyChannel checks everything a channel serves.
func verifyChannel(name string) command {
	return func(ctx context.Context, s *session) error {
		return s.verified(ctx, func(v *verify.Verifier, _ *workshop) (verify.Result, error) {
			return v.Channel(ctx, name, s.env.now())
		})
	}
}

// verifyImage checks one image.
func verifyImage(reference string) command {
	return func(ctx context.Context, s *session) error {
		return s.verified(ctx, func(v *verify.Verifier, w *workshop) (verify.Result, error) {
			name, at := w.member(reference)
			return v.Image(ctx, name, at)
		})
	}
}

// verifySBOM checks an image's SBOMs and prints their components.
func verifySBOM(reference string) command {
	return func(ctx context.Context, s *session) error {
		v, w, err := s.verifier(ctx)
		if err != nil {
			return err
		}
		name, at := w.member(reference)
		result, documents, err := v.SBOM(ctx, name, at)
		if err != nil {
			return err
		}
		raw := map[string]json.RawMessage{}
		for platform, content := range documents {
			raw[platform] = content
		}
		return s.print(raw, func() string { return verifiedText(result) + componentsText(documents) })
	}
}

func (s *session) verifier(ctx context.Context) (*verify.Verifier, *workshop, error) {
	w, err := s.openWorkshop(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	repositories, err := newRegistryPort(w.client, w.fam.Members())
	return &verify.Verifier{Family: w.fam, Registry: repositories, Trust: &trustPort{workshop: w}}, w, err
}

func (s *session) verified(ctx context.Context, check func(*verify.Verifier, *workshop) (verify.Result, error)) error {
	v, w, err := s.verifier(ctx)
	if err != nil {
		return err
	}
	result, err := check(v, w)
	if err != nil {
		return err
	}
	return s.print(result, func() string { return verifiedText(result) })
}

// member takes "[host/owner/]name[:tag|@digest]" apart; without a tag it is dev.
func (w *workshop) member(reference string) (name, at string) {
	reference = reference[strings.LastIndex(reference, "/")+1:]
	if name, at, ok := strings.Cut(reference, "@"); ok {
		return name, at
	}
	if name, at, ok := strings.Cut(reference, ":"); ok {
		return name, at
	}
	return reference, "dev"
}

func verifiedText(r verify.Result) string {
	table := term.Table{}
	for _, c := range r.Checks {
		table.Rows = append(table.Rows, []string{"✓", c.Subject, c.What, c.Found})
	}
	return fmt.Sprintf("%s\n%s verified: %d checks, all hold (%s)\n", table, r.Subject, len(r.Checks), r.Digest)
}

func componentsText(documents map[string][]byte) string {
	var out strings.Builder
	for _, platform := range slices.Sorted(maps.Keys(documents)) {
		var sbom struct {
			Components []struct {
				Name, Version, Type string
			}
		}
		if err := json.Unmarshal(documents[platform], &sbom); err != nil {
			continue // verified above: it is what was attested, whatever it is
		}
		table := term.Table{Head: []string{"component", "version", "type"}}
		for _, c := range sbom.Components {
			table.Rows = append(table.Rows, []string{c.Name, c.Version, c.Type})
		}
		fmt.Fprintf(&out, "\n%s: %d components\n%s", platform, len(sbom.Components), table)
	}
	return out.String()
}

// summary closes a release: what happened, what it holds, what was not scanned, what to do next.
func summary(m report.Model, dir, root string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", term.Escape(m.Headline()))
	if !m.Unchanged {
		members := term.Table{Head: []string{"member", "digest"}}
		for _, member := range m.Members {
			members.Rows = append(members.Rows, []string{member.Name, member.Digest.String()})
		}
		out.WriteString(members.String() + "\n")
	}
	if len(m.Cells) > 0 && !m.Unchanged {
		cells := term.Table{Head: []string{"image", "platform", "packages", "secrets", "vulnerabilities", "smoke tests"}}
		for _, c := range m.Cells {
			cells.Rows = append(cells.Rows, []string{c.Image, c.Platform, fmt.Sprint(c.Packages), c.Secrets, c.Vulns, c.Smoke})
		}
		out.WriteString(cells.String() + "\n")
	}
	if n := m.NotScanned(); n > 0 {
		fmt.Fprintf(&out, "%d of %d cells: vulnerabilities NOT SCANNED; they are not known to be clean.\n", n, len(m.Cells))
	}
	if relative, err := filepath.Rel(root, dir); err == nil {
		dir = relative
	}
	fmt.Fprintf(&out, "registry  %s: %d reads, %d writes, %s\n", m.Registry, m.Requests.Reads, m.Requests.Writes, m.Duration())
	fmt.Fprintf(&out, "page      %s\n", filepath.Join(dir, "report.html"))
	if m.Reached == string(pipeline.UntilPromote) {
		fmt.Fprintf(&out, "next      mage verify:channel %s, or mage local:serve for other clients\n", m.Channel)
	}
	return out.String()
}

func fileList(files map[string]string, root string) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := files[name]
		if relative, err := filepath.Rel(root, path); err == nil {
			path = relative
		}
		fmt.Fprintf(&out, "%s  %s\n", name, path)
	}
	return out.String()
}
