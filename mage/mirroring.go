package mage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/release"
)

// mirrored is what inspect:mirror prints: what it would do, or did.
type mirrored struct {
	From    string    `json:"from"`
	To      string    `json:"to"`
	Digest  string    `json:"digest"`
	Made    time.Time `json:"made"`
	Tag     string    `json:"tag"`   // names it for good: an old verdict can be repeated
	Moves   string    `json:"moves"` // the tag that scans ask for
	Was     string    `json:"was"`   // what that tag shows now; empty: nothing
	Applied bool      `json:"applied"`
}

// mirror copies the first database that a source gives, as it is, into the family's own registry.
func mirror(apply bool) command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, apply)
		if err == nil {
			err = w.mayWrite(apply)
		}
		if err != nil {
			return err
		}
		d := databases{workshop: w}
		if w.fam.Vulnerabilities.Mirror == "" || len(w.fam.Vulnerabilities.Sources) == 0 {
			return fault.New(fault.Invalid, "mirroring", "vulnerability database", "the family file names no mirror, or no source").
				WithHint("under vulnerabilities, set mirror to a repository name and sources to a list")
		}
		from, n, db, err := d.upstream(ctx)
		if err != nil {
			return err
		}
		m, move, err := d.planMirror(ctx, from, n, db)
		if err == nil && apply && m.Was != m.Digest {
			err = d.applyMirror(ctx, from, n, m, move)
		}
		if err != nil {
			return err
		}
		m.Applied = apply
		w.progress.settle()
		return w.print(m, func() string { return mirroredText(m) })
	}
}

// upstream returns the first source of the family file that has a database young enough; it is checked
// as a scan would check it.
func (d databases) upstream(ctx context.Context) (origin, graph.Node, inspect.Database, error) {
	var causes []error
	for _, s := range d.sources() {
		if s == d.mirror() {
			continue
		}
		db, err := d.pull(ctx, s)
		if err != nil {
			causes = append(causes, err)
			continue
		}
		s.at = db.Digest.String() // the tag may move meanwhile
		_, n, err := d.resolve(ctx, s)
		return s, n, db, err
	}
	return origin{}, graph.Node{}, inspect.Database{}, noDatabase(causes)
}

// planMirror says what mirroring would change.
func (d databases) planMirror(ctx context.Context, from origin, n graph.Node, db inspect.Database) (mirrored, release.Move, error) {
	repo, err := d.client.Repo(d.fam.Vulnerabilities.Mirror)
	if err != nil {
		return mirrored{}, release.Move{}, err
	}
	m := mirrored{
		From: from.String(), To: d.public + "/" + d.fam.Vulnerabilities.Mirror, Digest: n.Digest.String(), Made: db.Made,
		Tag: fmt.Sprintf("%d-%s", inspect.Schema, db.Made.Format("20060102T150405Z")), Moves: fmt.Sprint(inspect.Schema),
	}
	now, _, err := repo.Resolve(ctx, m.Moves)
	if err == nil && now.Digest != n.Digest {
		err = forwards(ctx, repo, m)
	}
	m.Was = now.Digest.String()
	return m, release.Move{Tag: ref.Tagged{Repo: repo.Name(), Tag: m.Moves}, From: now.Digest, To: n}, err
}

// forwards refuses to mirror a database that is older than one that the mirror has: a source that somebody
// set back, or a slower one, would hide what is known by now.
func forwards(ctx context.Context, repo *registry.Repository, m mirrored) error {
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if made, isOne := strings.CutPrefix(tag, m.Moves+"-"); isOne && tag > m.Tag {
			return fault.New(fault.Refused, "mirroring", m.From, "its database is of %s, and the mirror has one of %s", m.Made.Format(time.RFC3339), made).
				WithHint("wait until the source has a newer one; if the mirror's is wrong, delete its tag %s", tag)
		}
	}
	return nil
}

// applyMirror brings the bytes, reads them back, gives them the name that stays, and then the one that scans ask for.
func (d databases) applyMirror(ctx context.Context, from origin, n graph.Node, m mirrored, move release.Move) error {
	src, err := d.open(from)
	if err != nil {
		return err
	}
	repo, err := d.client.Repo(d.fam.Vulnerabilities.Mirror)
	if err != nil {
		return err
	}
	if err := repo.CopyFrom(ctx, src, n); err != nil {
		return err
	}
	if err := registry.Verify(ctx, repo, n); err != nil {
		return err
	}
	if _, err := repo.TagImmutable(ctx, m.Tag, n); err != nil {
		return err
	}
	_, err = repo.MoveTag(ctx, move)
	return err
}

func mirroredText(m mirrored) string {
	made := m.Made.Format(time.RFC3339)
	if m.Was == m.Digest {
		return fmt.Sprintf("%s has the database of %s already: nothing to do\n", term.Escape(m.To), made)
	}
	verb, end := "would copy", "nothing was written; -apply does it\n"
	if m.Applied {
		verb, end = "copied", ""
	}
	was := m.Was
	if was == "" {
		was = "nothing"
	}
	return fmt.Sprintf("%s the database of %s\n  from  %s\n  to    %s@%s\n  tag   %s, for good\n  tag   %s, which shows %s\n%s",
		verb, made, term.Escape(m.From), term.Escape(m.To), m.Digest, m.Tag, m.Moves, was, end)
}
