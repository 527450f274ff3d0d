package mage

import (
	"context"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/inspect"
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
			w.diagnosePackages(ctx), w.diagnoseIdentity(readAuthorities()), w.diagnoseDatabase(), w.diagnoseLedger(ctx),
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
	return diagnosis{What: what, Health: h, Found: err.Error(), Fix: fault.HintOf(err)}
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
		return diagnosis{What: "login", Health: ill, Found: "none for " + host, Fix: "docker login " + host + " with a classic token of the scopes write:packages and, to prune, delete:packages"}
	}
	return diagnosis{What: "login", Health: well, Found: "for " + host}
}

// diagnosePackages asks GitHub for each package: whether it is there, for us, and belongs to the
// source's repository. Whether we have the role Admin no API tells: a prune that lacks it says so.
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
		d.Health, d.Fix = weak, fmt.Sprintf("link %s: package settings, Connect repository; then give it the role Admin there", strings.Join(loose, ", "))
	} else if len(absent) > 0 {
		d.Health, d.Fix = weak, "the first release makes the others; if they exist, this login may not see them: mage ops:visibility"
	}
	return d
}

func (w *workshop) packageOf(ctx context.Context, github *ghcr.Client, member string) (ghcr.Package, bool, error) {
	repo, err := w.client.Repo(member)
	if err != nil {
		return ghcr.Package{}, false, err
	}
	return github.Shelf(member, repo).Package(ctx)
}

func (w *workshop) diagnoseIdentity(a authorities) diagnosis {
	d := diagnosis{What: "identity", Health: well}
	switch {
	case a.key != "":
		d.Found = "signs with the key in " + a.key
	case a.local(w.fam.Trust, w.loopback()):
		d.Found = "signs with the local Sigstore, as this machine"
	case a.tokenURL != "":
		d.Found = "signs as this workflow, by GitHub's OIDC tokens"
	default:
		d.Health, d.Found = ill, "nobody signs here: there are no OIDC tokens and no key"
		d.Fix = "release from a workflow with permissions: id-token: write, or set CONTAINAI_SIGNING_KEY if the family trusts a key"
	}
	return d
}

// freshDatabase is how old a vulnerability database may be before its scans say little.
const freshDatabase = 24 * time.Hour

func (w *workshop) diagnoseDatabase() diagnosis {
	if w.env.database == "" {
		return diagnosis{What: "vulnerabilities", Health: weak, Found: "no database: they will be NOT SCANNED, which strict channels refuse", Fix: "set CONTAINAI_VULNERABILITY_DB to the directory of a Trivy database"}
	}
	db, err := inspect.OpenDatabase(w.env.database)
	if err != nil {
		return broken("vulnerabilities", ill, err)
	}
	if err := db.CheckAge(w.env.now(), freshDatabase); err != nil {
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
