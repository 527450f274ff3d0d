package mage

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// A package is private until a person says otherwise; what GitHub says and what a consumer meets
// are two questions.
func TestVisibilityAsksGitHubAndAsAConsumer(t *testing.T) {
	github := rehearsal.New(rehearsal.Options{Tokens: []rehearsal.Token{{Secret: "owner", Login: "octocat", Scopes: []string{"write:packages"}}}})
	server := httptest.NewServer(github)
	defer server.Close()
	login := func(context.Context, string) (auth.Credential, error) {
		return auth.Credential{Username: "octocat", Password: "owner"}, nil
	}
	client, err := registry.New(strings.TrimPrefix(server.URL, "http://")+"/acme", registry.Options{Credential: login})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := client.Repo("app")
	if err != nil {
		t.Fatal(err)
	}
	n, err := graph.PackArtifact(t.Context(), repo, "application/vnd.test.v1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{session: &session{env: environment{github: server.URL}}, client: client, fam: &family.Family{
		Images: map[string]family.Image{"app": {}, "unserved": {From: "app"}},
	}}
	served := release.Document{Channels: map[string]release.State{"dev": {Members: map[string]digest.Digest{"app": n.Digest}}}}

	all, err := w.exposures(t.Context(), served)
	if err != nil {
		t.Fatal(err)
	}
	if e := all[0]; e.Member != "app" || e.API != "private" || e.Anonymous || e.Settings != "https://github.com/orgs/acme/packages/container/app/settings" {
		t.Errorf("the private package: %+v", e)
	}
	if e := all[1]; e.Needed || e.API != "none" {
		t.Errorf("the package that is not there: %+v", e)
	}
	if err := hidden(all); !errors.Is(err, fault.Environment) || !strings.Contains(err.Error(), "app") {
		t.Errorf("hidden() = %v", err)
	}
	text := exposureText(all, "acme")
	for _, want := range []string{"private", "/packages/container/app/settings", "https://github.com/organizations/acme/settings/packages"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}

	github.Publish("acme/app")
	if all, err = w.exposures(t.Context(), served); err != nil || !all[0].Anonymous || all[0].API != "public" || hidden(all) != nil {
		t.Errorf("the public package: %+v, %v", all, err)
	}
}
