package mage

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/inspect"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/internal/tool"
)

// diagnosis is one line of ops:doctor.
type diagnosis struct {
	What   string `json:"what"`
	Health health `json:"health"`
	Found  string `json:"found"`
	Fix    string `json:"fix,omitempty"`
}

type health string

const (
	well health = "ok"
	weak health = "warn" // a release may work; something will be missing from it
	ill  health = "fail" // a release will not work
)

// doctor looks at everything that a release needs, before anything is built.
func doctor() command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		all := []diagnosis{
			w.diagnoseGo(), w.diagnoseBuilder(ctx), w.diagnoseDisk(), w.diagnoseClock(ctx), w.diagnoseLogin(ctx),
			w.diagnosePackages(ctx), w.diagnoseRole(), w.diagnoseIdentity(ctx, readAuthorities()), w.diagnoseDatabase(ctx), w.diagnoseLedger(ctx),
		}
		w.progress.settle()
		if err := w.print(all, func() string { return doctorText(all) }); err != nil {
			return err
		}
		var failing []string
		for _, d := range all {
			if d.Health == ill {
				failing = append(failing, d.What)
			}
		}
		if len(failing) == 0 {
			return nil
		}
		return fault.New(fault.Environment, "checking", "what a release needs", "%s: not well", strings.Join(failing, ", ")).WithHint("each line above names its fix")
	}
}

func doctorText(all []diagnosis) string {
	table := term.Table{}
	for _, d := range all {
		table.Rows = append(table.Rows, []string{string(d.Health), d.What, d.Found})
		if d.Fix != "" {
			table.Rows = append(table.Rows, []string{"", "", "→ " + d.Fix})
		}
	}
	return table.String()
}

// broken is the diagnosis of an error.
func broken(what string, h health, err error) diagnosis {
	return diagnosis{What: what, Health: h, Found: err.Error(), Fix: cmp.Or(fault.HintOf(err), "run it again; if it stays so, ask whoever runs what is named here")}
}

// minGo is what go.mod asks for.
const minGo = "v1.26.3"

func (w *workshop) diagnoseGo() diagnosis {
	d := diagnosis{What: "Go", Health: well, Found: runtime.Version()}
	version := "v" + strings.TrimPrefix(strings.Fields(runtime.Version())[0], "go")
	switch {
	case tool.Find("go") == "":
		d.Health, d.Fix = ill, "put go into PATH: scanner and BuildKit are built with it"
	case semver.IsValid(version) && semver.Compare(version, minGo) < 0:
		d.Health, d.Fix = ill, "update Go to "+strings.TrimPrefix(minGo, "v")+" or newer"
	}
	return d
}

func (w *workshop) diagnoseBuilder(ctx context.Context) diagnosis {
	choice, err := buildkit.Choose(ctx, buildkit.Options{Builder: w.env.builder, Host: w.env.buildkit})
	if err != nil {
		return broken("builder", ill, err)
	}
	return diagnosis{What: "builder", Health: well, Found: string(choice.Kind) + " BuildKit: " + choice.Why}
}

// What a disk must have: a family of seven images and the tools that are built for it take about 8 GB.
const (
	scarceDisk = 4e9
	roomyDisk  = 12e9
)

func (w *workshop) diagnoseDisk() diagnosis {
	free := w.state.Free()
	d := diagnosis{What: "disk", Health: well, Found: fmt.Sprintf("%s free below %s", sizeText(int64(min(free, 1<<62))), w.state.Dir())}
	switch {
	case free < scarceDisk:
		d.Health = ill
	case free < roomyDisk:
		d.Health = weak
	}
	if d.Health != well {
		d.Fix = "free some space, or point CONTAINAI_STATE at another disk; mage local:reset gives up what can be made again"
	}
	return d
}

// Certificates are short: signing fails when the clocks are minutes apart.
const (
	slightSkew = 30 * time.Second
	greatSkew  = 5 * time.Minute
)

func (w *workshop) diagnoseClock(ctx context.Context) diagnosis {
	theirs, err := w.client.Time(ctx)
	if err != nil {
		return broken("registry", ill, err)
	}
	skew := w.env.now().Sub(theirs).Abs()
	d := diagnosis{What: "clock", Health: well, Found: fmt.Sprintf("%s from %s", skew.Round(time.Second), w.client.Base().Host)}
	switch {
	case skew > greatSkew:
		d.Health = ill
	case skew > slightSkew:
		d.Health = weak
	}
	if d.Health != well {
		d.Fix = "set the clock, for instance: timedatectl set-ntp true"
	}
	return d
}

func (w *workshop) diagnoseLogin(ctx context.Context) diagnosis {
	host := w.client.Base().Host
	if w.embedded {
		return diagnosis{What: "login", Health: well, Found: "the embedded registry asks for none"}
	}
	secret, err := w.client.Password(ctx)
	switch {
	case err != nil:
		return broken("login", ill, err)
	case secret == "" && w.client.Base().Loopback():
		return diagnosis{What: "login", Health: well, Found: "none for " + host + ", which is on this machine"}
	case secret == "":
		return diagnosis{What: "login", Health: ill, Found: "none for " + host, Fix: classicToken(host)}
	case w.onGitHub():
		return w.diagnoseScopes(ctx, secret)
	}
	return diagnosis{What: "login", Health: well, Found: "for " + host}
}

func classicToken(host string) string {
	return "docker login " + host + " with a classic token of the scopes write:packages and, to prune, delete:packages"
}

// diagnoseScopes says what a token may do at GitHub, whose packages take no fine-grained one.
func (w *workshop) diagnoseScopes(ctx context.Context, secret string) diagnosis {
	d := diagnosis{What: "login", Health: well}
	host := w.client.Base().Host
	if strings.HasPrefix(secret, "github_pat_") {
		d.Health, d.Found, d.Fix = ill, "a fine-grained token, which GitHub's packages do not take", classicToken(host)
		return d
	}
	github, err := w.github()
	if err != nil {
		return broken("login", ill, err)
	}
	scopes, told, err := github.Scopes(ctx)
	switch {
	case err != nil:
		return broken("login", ill, err)
	case !told:
		d.Found = "for " + host + ", with a token whose scopes GitHub does not tell: a workflow needs permissions: packages: write"
		return d
	}
	d.Found = "for " + host + ", with the scopes " + strings.Join(scopes, ", ")
	switch {
	case !slices.Contains(scopes, "write:packages"):
		d.Health, d.Fix = ill, "it may not push: "+classicToken(host)
	case !slices.Contains(scopes, "delete:packages"):
		d.Health, d.Fix = weak, "it may not prune: add the scope delete:packages to the token"
	}
	return d
}

// diagnosePackages asks GitHub for each package: whether it is there, for us, and belongs to the
// source's repository.
func (w *workshop) diagnosePackages(ctx context.Context) diagnosis {
	d := diagnosis{What: "packages", Health: well, Found: "the registry has no packages of GitHub's"}
	github, err := w.github()
	if err != nil {
		return broken("packages", ill, err)
	}
	if github == nil {
		return d
	}
	var absent, loose []string
	source, _ := url.Parse(w.fam.Source) // family.Parse checked it
	for _, member := range w.fam.Members() {
		p, found, err := w.packageOf(ctx, github, member)
		switch {
		case err != nil:
			return broken("packages", ill, err)
		case !found:
			absent = append(absent, member)
		case p.Repository == nil || p.Repository.FullName != strings.Trim(source.Path, "/"):
			loose = append(loose, member)
		}
	}
	d.Found = fmt.Sprintf("%d of %d are there and linked to %s", len(w.fam.Members())-len(absent)-len(loose), len(w.fam.Members()), w.fam.Source)
	if len(loose) > 0 {
		d.Health, d.Fix = weak, fmt.Sprintf("link %s: package settings, Connect repository", strings.Join(loose, ", "))
	} else if len(absent) > 0 {
		d.Health, d.Fix = weak, "the first release makes the others; if they exist, this login may not see them: mage ops:visibility"
	}
	return d
}

// diagnoseRole tells what no API does: deleting needs the role Admin of each package.
func (w *workshop) diagnoseRole() diagnosis {
	d := diagnosis{What: "role", Health: well, Found: "the registry has no roles of GitHub's"}
	if !w.onGitHub() {
		return d
	}
	d.Health, d.Found = weak, "whether this login is Admin of the packages, as prune needs, no API tells"
	d.Fix = "see each package's settings, Manage Actions access and Manage access; a prune that lacks it stops at its first deletion"
	return d
}

func (w *workshop) packageOf(ctx context.Context, github *ghcr.Client, member string) (ghcr.Package, bool, error) {
	repo, err := w.client.Repo(member)
	if err != nil {
		return ghcr.Package{}, false, err
	}
	return github.Shelf(member, repo).Package(ctx)
}

// diagnoseIdentity asks for a token as signing will, and forgets it.
func (w *workshop) diagnoseIdentity(ctx context.Context, a authorities) diagnosis {
	d := diagnosis{What: "identity", Health: well}
	switch {
	case w.fam.Trust.Instance == family.Key && a.key != "":
		d.Found = "signs with the key that CONTAINAI_SIGNING_KEY names" // not told: people put the key itself there
		if _, err := os.Stat(a.key); err != nil {
			d.Health, d.Found, d.Fix = ill, "CONTAINAI_SIGNING_KEY names no file that is here", "set it to the file of the private key"
		}
	case w.fam.Trust.Instance == family.Key:
		d.Health, d.Found, d.Fix = ill, "the family trusts a key, and none is here", "set CONTAINAI_SIGNING_KEY to the file of the private key"
	case a.local(w.fam.Trust, w.loopback()):
		d.Found = "signs with the local Sigstore, as this machine"
	case a.tokenURL == "" || a.token == "":
		d.Health, d.Found = ill, "nobody signs here: there are no OIDC tokens"
		d.Fix = "release from GitHub Actions, in a job with permissions: id-token: write"
	default:
		d.Found = "signs as this workflow, by GitHub's OIDC tokens"
		if _, err := sigstore.ActionsToken(a.tokenURL, a.token)(ctx); err != nil {
			d = broken("identity", ill, err)
		}
	}
	return d
}

// diagnoseDatabase asks the sources of the vulnerability database, and fetches nothing.
func (w *workshop) diagnoseDatabase(ctx context.Context) diagnosis {
	if w.env.database != "" {
		return w.diagnoseDirectory()
	}
	d := databases{workshop: w, hurry: true}
	sources := d.sources()
	if len(sources) == 0 {
		return diagnosis{What: "vulnerabilities", Health: weak, Found: "no database: they will be NOT SCANNED, which strict channels refuse",
			Fix: "name sources under `vulnerabilities:` in the family file, or set CONTAINAI_VULNERABILITY_DB to the directory of a Trivy database"}
	}
	var causes []error
	for _, s := range sources {
		_, n, err := d.resolve(ctx, s)
		if err == nil {
			return diagnosis{What: "vulnerabilities", Health: well, Found: d.pinName(s) + " has " + n.Digest.String()}
		}
		causes = append(causes, err)
	}
	if kept, found := d.kept(sources); found {
		return diagnosis{What: "vulnerabilities", Health: well, Found: "no source answers; the database that was fetched is young enough: " + kept.String()}
	}
	return broken("vulnerabilities", weak, noDatabase(causes))
}

func (w *workshop) diagnoseDirectory() diagnosis {
	db, err := inspect.OpenDatabase(w.env.database)
	if err != nil {
		return broken("vulnerabilities", ill, err)
	}
	if err := db.CheckAge(w.env.now(), w.fam.Vulnerabilities.MaxAge); err != nil {
		return broken("vulnerabilities", weak, err)
	}
	return diagnosis{What: "vulnerabilities", Health: well, Found: "database " + db.String()}
}

func (w *workshop) diagnoseLedger(ctx context.Context) diagnosis {
	log, err := w.openLedger(ctx)
	if err != nil {
		return broken("ledger", ill, err)
	}
	head, err := log.Head(ctx)
	if err != nil {
		return broken("ledger", ill, err)
	}
	d := diagnosis{What: "ledger", Health: well, Found: fmt.Sprintf("generation %d, and it may be moved", head.Document.Generation)}
	if err := log.Writable(ctx); err != nil {
		return broken("ledger", ill, err)
	}
	return d
}
