package mage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/ledger"
	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/source"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
	"github.com/containai/containai/mage/verify"
)

// session is one run of a command: the environment, and what was opened so far. Nothing is
// opened before a command asks for it, and everything is closed in reverse.
type session struct {
	env      environment
	face     face
	began    time.Time
	progress *progress
	console  *actions.Console // of a GitHub Actions job; elsewhere nobody reads it
	mu       sync.Mutex       // guards closers: parts of a stage run at the same time
	closers  []func() error
}

func newSession(env environment, f face) *session {
	console := newConsole(env)
	return &session{env: env, face: f, began: env.now(), progress: newProgress(env, console), console: console}
}

func (s *session) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	errs = append(errs, s.progress.close())
	return errors.Join(errs...)
}

func (s *session) onClose(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, f)
}

// family reads the family file.
func (s *session) family() (*family.Family, error) {
	content, err := os.ReadFile(s.env.family)
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: s.env.family, Kind: fault.Invalid, Err: err,
			Hint: "run mage where containai.yaml is, or set CONTAINAI_FAMILY to its path"}
	}
	fam, err := family.Parse(filepath.Base(s.env.family), content)
	if err != nil {
		return nil, err
	}
	return fam, readVEX(fam, filepath.Dir(s.env.family))
}

// readVEX gives a family the OpenVEX documents that its gates name.
func readVEX(fam *family.Family, dir string) error {
	for _, path := range fam.Documents() {
		content, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return &fault.Error{Op: "reading", Subject: path, Kind: fault.Invalid, Err: err,
				Hint: "a channel's gate names it under vex: create it, or remove the line"}
		}
		if err := fam.ReadVEX(path, content); err != nil {
			return err
		}
	}
	return nil
}

// workshop is everything that stands still while a release is made: the family, the work tree,
// the state directory and the registry.
type workshop struct {
	*session
	fam      *family.Family
	root     string // directory of the family file
	repo     *source.Repository
	state    *local.State
	client   *registry.Client
	embedded bool
	public   string // host[:port]/owner that people use
	cache    release.CacheUse
}

// openWorkshop opens what every command on a registry needs; writers take the state's lock.
func (s *session) openWorkshop(ctx context.Context, write bool) (*workshop, error) {
	fam, err := s.family()
	if err != nil {
		return nil, err
	}
	w := &workshop{session: s, fam: fam, root: filepath.Dir(s.env.family)}
	if w.repo, err = source.Open(ctx, w.root); err != nil {
		return nil, err
	}
	if w.state, err = local.OpenState(s.env.state); err != nil {
		return nil, err
	}
	s.onClose(w.state.Close)
	if write {
		if err := w.state.Lock(); err != nil {
			return nil, err
		}
	}
	return w, w.openRegistry(ctx)
}

func (w *workshop) openRegistry(ctx context.Context) error {
	base := w.env.registry
	w.public = base
	if base == "" {
		embedded, err := local.OpenRegistry(ctx, w.state)
		if err != nil {
			return err
		}
		w.onClose(embedded.Close)
		w.embedded = true
		base = embedded.Host + "/" + w.fam.Name
		w.public = local.DefaultAddr + "/" + w.fam.Name
	}
	client, err := registry.New(base, registry.Options{Cache: filepath.Join(w.env.cache, "content"), Login: w.login(base), Secrets: w.env.secrets})
	if err != nil {
		return &fault.Error{Op: "opening registry", Subject: base, Kind: fault.Invalid, Err: err, Hint: "set CONTAINAI_REGISTRY to host[:port]/owner, or unset it to use the embedded registry"}
	}
	w.client = client
	w.onClose(w.tellRequests)
	return nil
}

// tellRequests ends every command that asked a registry with what that cost: API calls are a budget.
func (w *workshop) tellRequests() error {
	w.progress.settle()
	_, err := fmt.Fprintf(w.env.stderr, "registry  %s: %s, %.1f s\n", w.public, report.Requests(w.client.Counts()), w.env.now().Sub(w.began).Seconds())
	return err
}

// openLedger opens the channels' history: beside the embedded registry, or in the clone.
func (w *workshop) openLedger(ctx context.Context) (*ledger.Ledger, error) {
	if w.embedded {
		return ledger.OpenLocal(ctx, w.state.LedgerDir(), w.fam.Ledger.Ref)
	}
	l, err := ledger.OpenClone(ctx, w.repo.Root(), w.fam.Ledger.Branch, w.fam.Ledger.Ref)
	if err != nil {
		return nil, err
	}
	return l.With(ledger.Credentials{Token: w.env.token, Agent: w.env.sshAgent})
}

// plan reads the source and says what would be built. What the family file names must be there:
// a missing file is found now, not after the images are built.
func (w *workshop) plan(ctx context.Context) (release.Plan, error) {
	needed := []string{w.fam.Bake}
	for _, a := range w.fam.Artifacts {
		switch a.Kind {
		case family.Payload:
			needed = append(needed, a.Path)
		case family.Installer:
			needed = append(needed, filepath.Join(a.Path, installScript))
		}
	}
	for _, name := range needed {
		if _, err := os.Stat(filepath.Join(w.root, name)); err != nil {
			return release.Plan{}, &fault.Error{Op: "planning", Subject: w.fam.Name, Kind: fault.Invalid, Err: err,
				Hint: "the family file names it: create it, or correct " + w.env.family}
		}
	}
	src, err := w.repo.Read(ctx)
	if err != nil {
		return release.Plan{}, err
	}
	return release.NewPlan(w.fam, src, w.platforms())
}

// platforms are what is built: only this machine's unless more was asked for.
func (w *workshop) platforms() []string {
	if len(w.env.platforms) > 0 {
		return w.env.platforms
	}
	return []string{hostPlatform()}
}

// pipeline wires the adapters to a plan's stages. BuildKit, the worker and Sigstore start when a
// stage first needs them.
func (w *workshop) pipeline(ctx context.Context, plan release.Plan) (*pipeline.Pipeline, error) {
	d := newDist(w.root, plan.Source)
	if err := d.takeOver(w.env.handover, plan.Source); err != nil {
		return nil, err
	}
	if err := d.hide(); err != nil {
		return nil, err
	}
	layout, err := registry.OpenLayout(d.path("layout"))
	if err != nil {
		return nil, err
	}
	repositories, err := verify.Connect(w.client, w.fam.Members())
	if err != nil {
		return nil, err
	}
	history, err := w.openLedger(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.progress.record(d.path("events.jsonl")); err != nil {
		return nil, err
	}
	pack := packer{
		root: w.root, familyFile: w.env.family, dist: d.dir, public: w.public, loopback: w.loopback(),
		authorities: readAuthorities(), layout: layout, verifier: w.buildVerifier,
	}
	trust := &trustPort{workshop: w}
	return &pipeline.Pipeline{
		Family: w.fam, Layout: layoutPort{layout}, Packer: pack, Dist: d,
		Builder:  &builderPort{workshop: w, layout: layout},
		Inspect:  &inspectorPort{workshop: w, dist: d, layout: layout},
		Registry: repositories, Signer: (&signerPort{workshop: w, plan: plan}).open,
		Verifier: trust, Ledger: history, History: w.repo, Progress: w.progress, Now: w.env.now, Anew: w.env.anew,
	}, nil
}

// openPipeline opens a workshop, plans, and wires the stages.
func (s *session) openPipeline(ctx context.Context, write bool) (*workshop, *pipeline.Pipeline, release.Plan, error) {
	w, err := s.openWorkshop(ctx, write)
	if err != nil {
		return nil, nil, release.Plan{}, err
	}
	plan, err := w.plan(ctx)
	if err != nil {
		return nil, nil, release.Plan{}, err
	}
	w.cache = release.CacheFor(release.Work, family.Gate{})
	p, err := w.pipeline(ctx, plan)
	return w, p, plan, err
}
