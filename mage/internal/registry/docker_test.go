package registry_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/content/memory"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/rehearsal"
)

// Credentials are where docker login keeps them: in its configuration, or with a helper.
func TestTheLoginIsDockers(t *testing.T) {
	w := ghcr(t, rehearsal.Options{Tokens: []rehearsal.Token{member()}})
	for name, test := range map[string]struct {
		config, helper string
		kind           fault.Kind
		hint           string
	}{
		"in its configuration": {config: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, w.host, base64.StdEncoding.EncodeToString([]byte("octocat:"+member().Secret)))},
		"with a helper": {
			config: fmt.Sprintf(`{"credHelpers":{%q:"rehearsal"}}`, w.host),
			helper: fmt.Sprintf(`read host; [ "$1 $host" = "get %s" ] && echo '{"ServerURL":"%s","Username":"octocat","Secret":"%s"}'`, w.host, w.host, member().Secret),
		},
		"with a helper for all": {
			config: `{"credsStore":"rehearsal"}`,
			helper: fmt.Sprintf(`echo '{"ServerURL":"%s","Username":"octocat","Secret":"%s"}'`, w.host, member().Secret),
		},
		"nowhere":                        {config: `{}`, kind: fault.Environment, hint: "docker login"},
		"with a helper that fails":       {config: `{"credsStore":"rehearsal"}`, helper: `echo locked; exit 1`, kind: fault.Environment, hint: "docker login"},
		"with a helper that is gone":     {config: `{"credsStore":"nobody-has-this"}`, kind: fault.Environment, hint: "docker login"},
		"in a configuration that is cut": {config: `{"auths":{`, kind: fault.Environment, hint: "config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dockerHome(t, test.config, test.helper)
			c, err := registry.New(w.host+"/family", registry.Options{Pause: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			src := memory.New()
			err = repo(t, c, "app").CopyFrom(t.Context(), src, image(t, src, 1))
			kind, _ := fault.KindOf(err)
			if kind != test.kind || !strings.Contains(fault.HintOf(err), test.hint) {
				t.Errorf("CopyFrom = %v, hint %q", err, fault.HintOf(err))
			}
			if err != nil && strings.Contains(err.Error(), member().Secret) {
				t.Errorf("%v tells the secret", err)
			}
		})
	}
}

func TestARegistryThatWantsNoLoginIsNotHeldUpByDocker(t *testing.T) {
	dockerHome(t, `{"auths":{`, "")
	_, n := copied(t, repo(t, client(t, ghcr(t, rehearsal.Options{}).host), "app"), 1)
	if n.Digest == "" {
		t.Error("nothing was copied")
	}
}

// dockerHome is where Docker's configuration is, and a helper if there is one.
func dockerHome(t *testing.T, config, helper string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "docker-credential-rehearsal")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600), os.WriteFile(program, []byte("#!/bin/sh\n"+helper+"\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}
