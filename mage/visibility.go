package mage

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/ghcr"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/release"
)

// exposure is who can see a repository: as GitHub says, and as somebody without a login finds.
type exposure struct {
	Member    string `json:"member"`
	API       string `json:"api,omitempty"` // public, private, internal; empty where no API tells
	Anonymous bool   `json:"anonymous"`     // what a channel serves was there for somebody without a login
	Needed    bool   `json:"needed"`        // a channel serves something of it
	Why       string `json:"why,omitempty"`
	Settings  string `json:"settings,omitempty"` // page where a person changes it: no API can
}

// visibility checks that consumers can pull what the channels serve without a login.
func visibility() command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		log, err := w.openLedger(ctx)
		if err != nil {
			return err
		}
		head, err := log.Head(ctx)
		if err != nil {
			return err
		}
		all, err := w.exposures(ctx, head.Document)
		if err != nil {
			return err
		}
		if err := w.print(all, func() string { return exposureText(all, w.client.Base().Path) }); err != nil {
			return err
		}
		return hidden(all)
	}
}

func (w *workshop) exposures(ctx context.Context, d release.Document) ([]exposure, error) {
	nobody := func(context.Context, string) (auth.Credential, error) { return auth.EmptyCredential, nil }
	client, err := registry.New(w.client.Base().String(), registry.Options{Credential: nobody})
	if err != nil {
		return nil, err
	}
	github, err := w.github()
	if err != nil {
		return nil, err
	}
	served := servedDigests(d, w.fam)
	all := []exposure{}
	for _, member := range w.fam.Members() {
		e := exposure{Member: member, Needed: len(served[member]) > 0}
		if github != nil {
			if err := w.ask(ctx, github, &e); err != nil {
				return nil, err
			}
		}
		repo, err := client.Repo(member)
		if err != nil {
			return nil, err
		}
		if err := look(ctx, repo, served[member], &e); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// servedDigests is what the channels serve of each member.
func servedDigests(d release.Document, fam *family.Family) map[string][]digest.Digest {
	served := map[string][]digest.Digest{}
	for _, channel := range d.Names() {
		s := d.Channels[channel]
		for member, of := range s.Members {
			served[member] = append(served[member], of)
		}
		metadata := fam.ArtifactOf(family.Metadata)
		served[metadata] = append(served[metadata], s.Record)
	}
	return served
}

// ask asks GitHub, with our login.
func (w *workshop) ask(ctx context.Context, github *ghcr.Client, e *exposure) error {
	p, found, err := w.packageOf(ctx, github, e.Member)
	switch {
	case err != nil:
		return err
	case !found:
		e.API, e.Why = "none", "there is no such package, or this login may not see it"
	default:
		e.API = p.Visibility
		e.Settings = settingsPage(p.Page)
	}
	return nil
}

// settingsPage is the page of a package's settings, which the API does not name.
func settingsPage(page string) string {
	return strings.Replace(page, "/container/package/", "/container/", 1) + "/settings"
}

// look asks as a consumer does: an anonymous token, and HEAD of a manifest.
func look(ctx context.Context, repo *registry.Repository, served []digest.Digest, e *exposure) error {
	for _, d := range served {
		there, err := repo.Exists(ctx, graph.Node{MediaType: ocispec.MediaTypeImageIndex, Digest: d})
		kind, _ := fault.KindOf(err)
		switch {
		case ctx.Err() != nil || kind == fault.Unavailable:
			return err
		case err != nil:
			e.Why = "without a login: " + err.Error()
			return nil
		case !there:
			e.Why = fmt.Sprintf("without a login, %s is not there", d)
			return nil
		}
	}
	e.Anonymous = len(served) > 0
	return nil
}

// hidden is the error of repositories that consumers need and cannot see.
func hidden(all []exposure) error {
	var names []string
	for _, e := range all {
		if e.Needed && !e.Anonymous {
			names = append(names, e.Member)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fault.New(fault.Environment, "checking visibility of", strings.Join(names, ", "), "consumers need a login for it").
		WithHint("GitHub has no API for it: open each settings page above, Danger Zone, Change visibility, Public")
}

func exposureText(all []exposure, owner string) string {
	table := term.Table{Head: []string{"repository", "GitHub says", "without a login", "settings"}}
	for _, e := range all {
		seen := "can be pulled"
		switch {
		case !e.Needed:
			seen = "nothing is served from it"
		case !e.Anonymous:
			seen = e.Why
		}
		table.Rows = append(table.Rows, []string{e.Member, e.API, seen, e.Settings})
	}
	text := table.String()
	if slices.ContainsFunc(all, func(e exposure) bool { return e.API != "" }) {
		text += fmt.Sprintf("new packages of an organisation are private until https://github.com/organizations/%s/settings/packages says Public\n", term.Escape(owner))
	}
	return text
}
