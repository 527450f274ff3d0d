package mage

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/ref"
)

// How long the sources of the vulnerability database are waited for. Where a channel allows NOT SCANNED,
// nobody wants to wait for a network that is not there.
const (
	sourceBudget   = time.Minute      // without a good answer, of one source
	sourceHurry    = 10 * time.Second // the same, where NOT SCANNED is allowed
	databaseBudget = 15 * time.Minute // for all of it
)

// databases finds the vulnerability database of a run: one, pinned by its digest, for all its cells.
type databases struct {
	*workshop
	hurry bool          // NOT SCANNED is allowed
	pause time.Duration // unit of every wait; zero means a second
}

// find returns the database that CONTAINAI_VULNERABILITY_DB names, or that the family's sources give:
// the mirror first, then in the order of the family file. One whose maker has not meant to make another
// yet is used without asking; where no source answers, one that is young enough still is.
func (d databases) find(outer context.Context) (inspect.Database, error) {
	if d.env.database != "" {
		return inspect.OpenDirectory(d.env.database)
	}
	if err := os.MkdirAll(d.env.cache, 0o700); err != nil {
		return inspect.Database{}, fault.Wrap(err, fault.Environment, "creating", d.env.cache)
	}
	sources := d.sources()
	if len(sources) == 0 {
		return inspect.Database{}, nil
	}
	now := d.env.now()
	kept, found := d.kept(sources)
	if found && now.Before(kept.Next) {
		return kept, nil
	}
	ctx, cancel := context.WithTimeout(outer, databaseBudget)
	defer cancel()
	unlock, err := tool.Lock(ctx, filepath.Join(d.env.cache, "vulnerabilities.lock"), func() { d.progress.Note("inspect", "vulnerabilities", "another run fetches the database") })
	if err != nil {
		return inspect.Database{}, err
	}
	defer unlock()
	var causes []error
	for _, s := range sources {
		db, err := d.pull(ctx, s)
		if err == nil {
			return db, d.cache().Pin(d.pinName(s), db.Digest)
		}
		if outer.Err() != nil {
			return inspect.Database{}, fault.Wrap(context.Cause(outer), fault.Interrupted, "fetching", "vulnerability database")
		}
		causes = append(causes, err)
	}
	err = noDatabase(causes)
	if found {
		d.progress.Note("inspect", "vulnerabilities", fmt.Sprintf("the database of %s is used: %v", kept.Made.Format(time.RFC3339), err))
		return kept, nil
	}
	return inspect.Database{}, err
}

func (d databases) cache() inspect.Databases {
	return inspect.Databases{Dir: filepath.Join(d.env.cache, "vulnerabilities"), Now: d.env.now()}
}

// kept returns the youngest database that one of the sources gave before and that may still be used.
func (d databases) kept(sources []origin) (youngest inspect.Database, found bool) {
	for _, s := range sources {
		db, there := d.cache().Pinned(d.pinName(s))
		if there && db.CheckAge(d.env.now(), d.fam.Vulnerabilities.MaxAge) == nil && db.Made.After(youngest.Made) {
			youngest, found = db, true
		}
	}
	return youngest, found
}

// origin is where a database is asked for: a tag or a digest in a repository.
type origin struct {
	repo ref.Repo
	at   string
}

func (o origin) String() string {
	if strings.Contains(o.at, ":") {
		return o.repo.String() + "@" + o.at
	}
	return o.repo.String() + ":" + o.at
}

// sources are the mirror in the family's registry, then those of the family file.
func (d databases) sources() (all []origin) {
	if d.fam.Vulnerabilities.Mirror != "" && d.client != nil {
		all = append(all, d.mirror())
	}
	for _, s := range d.fam.Vulnerabilities.Sources {
		tagged, pinned, err := ref.Parse(s)
		switch {
		case err != nil: // Parse of the family file has refused it
		case pinned.Digest != "":
			all = append(all, origin{pinned.Repo, pinned.Digest.String()})
		default:
			all = append(all, origin{tagged.Repo, tagged.Tag})
		}
	}
	return all
}

// pinName is what a source is remembered as. The embedded registry's port changes.
func (d databases) pinName(s origin) string {
	if d.fam.Vulnerabilities.Mirror != "" && s == d.mirror() {
		return d.public + "/" + d.fam.Vulnerabilities.Mirror
	}
	return s.String()
}

func (d databases) mirror() origin {
	base := d.client.Base()
	return origin{ref.Repo{Host: base.Host, Path: base.Path + "/" + d.fam.Vulnerabilities.Mirror}, fmt.Sprint(inspect.Schema)}
}

// open returns a source's repository, with the patience that this run has.
func (d databases) open(s origin) (*registry.Repository, error) {
	budget := sourceBudget
	if d.hurry {
		budget = sourceHurry
	}
	base := s.repo.Host + "/" + path.Dir(s.repo.Path)
	client, err := registry.New(base, registry.Options{Budget: budget, Pause: d.pause, Login: d.login(base), Secrets: d.env.secrets})
	if err != nil {
		return nil, err
	}
	return client.Repo(path.Base(s.repo.Path))
}

// resolve asks a source what it has, within the time that this run waits for one.
func (d databases) resolve(ctx context.Context, s origin) (*registry.Repository, graph.Node, error) {
	repo, err := d.open(s)
	if err != nil {
		return nil, graph.Node{}, err
	}
	patience := 2 * sourceBudget
	if d.hurry {
		patience = sourceHurry
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var n graph.Node
	var there bool
	if of := digest.Digest(s.at); of.Validate() == nil {
		n, there, err = repo.ByDigest(ctx, of)
	} else {
		n, there, err = repo.Resolve(ctx, s.at)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, n, fault.New(fault.Unavailable, "asking", s.String(), "there was no answer within %s", patience)
	case err != nil:
		return nil, n, err
	case !there:
		return nil, n, fault.New(fault.Refused, "asking", s.String(), "there is no vulnerability database")
	}
	return repo, n, nil
}

// pull brings what a source has, if it is young enough.
func (d databases) pull(ctx context.Context, s origin) (inspect.Database, error) {
	repo, n, err := d.resolve(ctx, s)
	if err != nil {
		return inspect.Database{}, err
	}
	if _, there := d.cache().Open(n.Digest); !there {
		d.progress.Note("inspect", "vulnerabilities", "fetching the database from "+s.String())
	}
	db, err := d.cache().Pull(ctx, repo, n)
	if err == nil {
		err = db.CheckAge(d.env.now(), d.fam.Vulnerabilities.MaxAge)
	}
	return db, fault.Wrap(err, fault.Unavailable, "fetching vulnerability database from", s.String())
}

// noDatabase is why no source gave a database: every cause, with the gravest kind.
func noDatabase(causes []error) error {
	all := &fault.Error{Op: "fetching", Subject: "vulnerability database", Kind: fault.Refused, Err: joined(causes)}
	for _, kind := range []fault.Kind{fault.Unavailable, fault.Environment, fault.Forged} {
		for _, cause := range causes {
			if is, _ := fault.KindOf(cause); is == kind {
				all.Kind, all.Hint = kind, fault.HintOf(cause)
			}
		}
	}
	if all.Hint == "" {
		all.Hint = "mirror a current one with `mage inspect:mirror -apply` from where a source is reached, or set CONTAINAI_VULNERABILITY_DB to a directory with one"
	}
	return all
}

// joined puts errors on one line.
type joined []error

func (j joined) Error() string {
	lines := make([]string, len(j))
	for i, err := range j {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "; ")
}
