package mage

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/retention"
	"github.com/containai/containai/mage/verify"
)

// openKeeper opens what prune and its undoing need. It takes the state's lock, because the journal
// has one writer.
func (s *session) openKeeper(ctx context.Context) (*workshop, *pipeline.Keeper, error) {
	w, err := s.openWorkshop(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	w.onClose(w.client.Gather()) // it reads every manifest there is
	k, err := w.keeper(ctx)
	return w, k, err
}

func (w *workshop) keeper(ctx context.Context) (*pipeline.Keeper, error) {
	journal, err := w.state.Journal()
	if err != nil {
		return nil, err
	}
	log, err := w.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	repositories, err := verify.Connect(w.client, w.fam.Members())
	if err != nil {
		return nil, err
	}
	movers := &pipeline.Pipeline{
		Family: w.fam, Registry: repositories, Verifier: &trustPort{workshop: w}, Ledger: log, History: w.repo, Progress: w.progress, Now: w.env.now,
	}
	k := &pipeline.Keeper{
		Family: w.fam, Base: w.client.Base(), Host: w.client.Base().Host, Shelves: map[string]pipeline.Shelf{},
		Registry: repositories, Ledger: log, Vouched: movers.Vouched, Journal: journal, Progress: w.progress,
	}
	if w.embedded {
		k.Host = "embedded-" + w.state.ID() // it listens elsewhere in every run
	}
	return k, w.openShelves(k)
}

// openShelves chooses how manifests are taken away: by GitHub's API in GHCR, which has no other way,
// by the distribution specification elsewhere.
func (w *workshop) openShelves(k *pipeline.Keeper) error {
	github, err := w.github()
	if err != nil {
		return err
	}
	for _, member := range w.fam.Members() {
		repo, err := w.client.Repo(member)
		switch {
		case err != nil:
			return err
		case github != nil:
			k.Shelves[member] = github.Shelf(member, repo)
		case w.embedded:
			k.Shelves[member] = registry.NewShelf(repo, w.manifests)
		default:
			k.Shelves[member] = registry.NewShelf(repo, nil)
		}
	}
	return nil
}

// github is the API of the packages, nil where the registry is not GitHub's.
func (w *workshop) github() (*ghcr.Client, error) {
	if !w.onGitHub() {
		return nil, nil
	}
	return ghcr.New(w.client.Base().Path, ghcr.Options{API: w.env.github, Token: w.client.Password})
}

// onGitHub reports whether the registry is GitHub's: by its name, or because the API is at the same
// address, as in a rehearsal.
func (w *workshop) onGitHub() bool { return w.env.onGitHub(w.client.Base().Host) }

func (e environment) onGitHub(host string) bool {
	api, err := url.Parse(e.github)
	return host == "ghcr.io" || err == nil && api.Host == host
}

func (w *workshop) manifests(_ context.Context, repo ref.Repo) (map[digest.Digest]time.Time, error) {
	return w.state.Manifests(repo.Path)
}

// pruning is what somebody asks of ops:prune, or of ops:apply with what it saved.
type pruning struct {
	allow string
	apply bool
	out   string      // file that keeps the plan
	saved *savedPrune // the plan that was read; nil: whatever is planned now
}

// savedPrune is a plan in a file: what goes, and which refusals were lifted.
type savedPrune struct {
	Host  string           `json:"host"` // as the journal calls it
	Base  string           `json:"base"` // below which its places are
	Allow string           `json:"allow,omitempty"`
	Goes  retention.Leaves `json:"goes"`
}

// again is the command line that asks for the same.
func (p pruning) again() string {
	if p.allow == "" {
		return "mage ops:prune -apply"
	}
	return "mage ops:prune -allow=" + tool.Quote(p.allow) + " -apply"
}

// pruned is what ops:prune prints with -json.
type pruned struct {
	retention.Plan
	Applied bool              `json:"applied"`
	Done    []retention.Entry `json:"done"`
	Freed   int64             `json:"freed,omitempty"` // bytes of blobs that were collected; only the embedded registry tells
}

// prune prints what would go and why everything else stays, keeps the plan in a file if asked, and with
// -apply deletes it.
func prune(in pruning) command {
	return func(ctx context.Context, s *session) error {
		allow, err := readAllow(in.allow)
		if err != nil {
			return err
		}
		w, k, err := s.openKeeper(ctx)
		if err == nil {
			err = w.mayWrite(in.apply)
		}
		if err != nil {
			return err
		}
		facts, plan, err := k.PlanPrune(ctx, allow)
		if err != nil {
			return err
		}
		if err := in.keep(k, plan); err != nil {
			return err
		}
		out := pruned{Plan: plan, Done: []retention.Entry{}}
		if in.apply && plan.Refusal() == nil {
			w.progress.settle()
			w.say(pruneText(plan))
			out.Applied = true
			if out.Done, err = k.Prune(ctx, facts, plan); err == nil && w.embedded {
				out.Freed, err = w.collect(k, plan.Now)
			}
		}
		w.progress.settle()
		if printing := w.print(out, func() string { return prunedText(out, in) }); err == nil {
			err = printing
		}
		for _, why := range []error{plan.Refusal(), plan.Incomplete()} {
			if err == nil {
				err = why
			}
		}
		return err
	}
}

// keep writes a plan into the file that was asked for, and refuses one that is not what was saved.
func (in pruning) keep(k *pipeline.Keeper, plan retention.Plan) error {
	now := savedPrune{Host: k.Host, Base: k.Base.String(), Allow: in.allow, Goes: plan.Leaves(k.Base.String())}
	if in.out != "" {
		return savePlan(in.out, savedPlan{Prune: &now})
	}
	if in.saved == nil {
		return nil
	}
	if now.Host != in.saved.Host || ownerOf(now.Base) != ownerOf(in.saved.Base) {
		return fault.New(fault.Conflict, "applying", in.saved.Base, "the plan is for another registry, this one is %s", now.Base).WithHint("plan again: mage ops:prune -out=FILE")
	}
	return in.saved.Goes.Drift(now.Goes)
}

// ownerOf is what follows the host, which may be another address in every run.
func ownerOf(base string) string {
	_, owner, _ := strings.Cut(base, "/")
	return owner
}

// undoable is how long the embedded registry keeps the blobs of what was deleted.
const undoable = 7 * 24 * time.Hour

// collect removes from the embedded registry the blobs that nothing needs, not even the undoing of a
// late deletion. Other registries collect by themselves.
func (w *workshop) collect(k *pipeline.Keeper, now time.Time) (freed int64, err error) {
	deleted, err := k.Deleted("")
	if err != nil {
		return 0, err
	}
	var undone [][]byte
	for _, e := range deleted {
		if e.Of != "" {
			continue // what that tag was on stayed
		}
		content, found, err := k.Journal.Kept(digest.Digest(e.At[strings.IndexByte(e.At, '@')+1:]))
		if err != nil {
			return 0, err
		}
		if found && now.Sub(e.Time) < undoable {
			undone = append(undone, content)
		}
	}
	return w.state.Collect(now.Add(-w.fam.Retention.Grace), undone)
}

func readAllow(s string) (a retention.Allow, err error) {
	for name := range strings.SplitSeq(s, ",") {
		switch name {
		case "":
		case "empty":
			a.Empty = true
		case "share":
			a.Share = true
		default:
			return a, fault.New(fault.Invalid, "reading", "-allow="+s, "it lifts empty, share or both").WithHint("-allow=empty,share")
		}
	}
	return a, nil
}

func pruneText(p retention.Plan) string {
	var b strings.Builder
	for _, k := range p.Keeps {
		fmt.Fprintf(&b, "keep    %s\n", term.Escape(strings.Join(k.Path, " → ")))
	}
	table := term.Table{}
	var size int64
	for _, d := range p.Deletes {
		size += d.Size
		table.Rows = append(table.Rows, []string{"delete", d.At, d.Age + " old", sizeText(d.Size), strings.Join(d.Tags, " "), d.Why})
	}
	b.WriteString(table.String())
	names := 0
	for _, u := range p.Unnames {
		names += len(u.Tags)
		fmt.Fprintf(&b, "untag   %s\n", term.Escape(fmt.Sprintf("%s stays without %s: %s", u.At, strings.Join(u.Tags, " "), u.Why)))
	}
	for _, s := range p.Skipped {
		fmt.Fprintf(&b, "skipped %s: %s\n", term.Escape(s.Repo), term.Escape(s.Why))
	}
	for _, why := range p.Refused {
		fmt.Fprintf(&b, "refused %s\n", term.Escape(why))
	}
	fmt.Fprintf(&b, "%d manifests stay, %d go, %d tags go alone; up to %s are freed; by the registry's clock it is %s\n",
		len(p.Keeps), len(p.Deletes), names, sizeText(size), p.Now.UTC().Format(time.RFC3339))
	return b.String()
}

func prunedText(p pruned, in pruning) string {
	switch {
	case len(p.Refused) > 0:
		return pruneText(p.Plan)
	case !p.Applied && p.Empty():
		return pruneText(p.Plan) + "nothing to do\n"
	case !p.Applied && in.out != "":
		return pruneText(p.Plan) + "nothing was done; to do exactly this: mage ops:apply " + term.Escape(tool.Quote(in.out)) + "\n"
	case !p.Applied:
		return pruneText(p.Plan) + "nothing was done; to do it: " + term.Escape(in.again()) + "\n"
	}
	count := map[retention.Outcome]int{}
	var b strings.Builder
	for _, e := range p.Done {
		count[e.Outcome]++
		if e.Outcome == retention.Retained || e.Outcome == retention.Skipped {
			fmt.Fprintf(&b, "%s %s: %s\n", e.Outcome, term.Escape(e.At), term.Escape(e.Why))
		}
	}
	if p.Freed > 0 {
		fmt.Fprintf(&b, "%s of blobs collected\n", sizeText(p.Freed))
	}
	fmt.Fprintf(&b, "%d deleted, %d were gone, %d retained by the registry, %d left alone; to undo it: mage ops:undelete\n",
		count[retention.Deleted], count[retention.Absent], count[retention.Retained], count[retention.Skipped])
	return b.String()
}

// sizeText prints bytes as people read them.
func sizeText(n int64) string {
	const unit = 1000
	switch {
	case n >= unit*unit*unit:
		return fmt.Sprintf("%.1f GB", float64(n)/(unit*unit*unit))
	case n >= unit*unit:
		return fmt.Sprintf("%.1f MB", float64(n)/(unit*unit))
	case n >= unit:
		return fmt.Sprintf("%.1f kB", float64(n)/unit)
	}
	return fmt.Sprintf("%d B", n)
}

// restoring is what ops:undelete prints with -json.
type restoring struct {
	Entries []retention.Entry `json:"entries"`
	Applied bool              `json:"applied"`
}

// undelete prints what a prune took and can be brought back, and with -apply brings it back.
func undelete(what string, apply bool) command {
	return func(ctx context.Context, s *session) error {
		w, k, err := s.openKeeper(ctx)
		if err == nil {
			err = w.mayWrite(apply)
		}
		if err != nil {
			return err
		}
		entries, err := k.Restorable(what)
		if err != nil {
			return err
		}
		if len(entries) == 0 && what != "" {
			return fault.New(fault.Unverified, "looking for", what, "the journal in %s knows nothing of it that is deleted", w.state.Dir()).
				WithHint("bare mage ops:undelete lists everything; the journal is on the machine where the prune ran")
		}
		out := restoring{Entries: append([]retention.Entry{}, entries...), Applied: apply}
		if apply {
			err = k.Undelete(ctx, entries)
		}
		w.progress.settle()
		if printing := w.print(out, func() string { return undeleteText(out, s.env.now()) }); err == nil {
			err = printing
		}
		return err
	}
}

func undeleteText(r restoring, now time.Time) string {
	if len(r.Entries) == 0 {
		return "nothing is deleted that the journal knows of\n"
	}
	if r.Applied {
		return ""
	}
	table := term.Table{Head: []string{"run", "what", "tags", "how it comes back"}}
	can := len(r.Entries)
	for _, e := range r.Entries {
		way := "pushed again from this machine's trash, as long as the registry has its blobs"
		switch {
		case e.Of != "":
			way = "given again to " + e.Of + ", if nobody took it"
		case e.ID != 0:
			until := e.Time.AddDate(0, 0, 30)
			way = "restored by GitHub, until " + until.Format(time.DateOnly)
			if now.After(until) {
				can, way = can-1, "NO LONGER: GitHub kept it until "+until.Format(time.DateOnly)+"; release the commit anew"
			}
		}
		table.Rows = append(table.Rows, []string{e.Run, e.At, strings.Join(e.Tags, " "), way})
	}
	return table.String() + fmt.Sprintf("%d can come back; to do it: mage ops:undelete -apply, or with -what=\n", can)
}
