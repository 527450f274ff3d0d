package buildkit

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
)

func FuzzParseCacheIsWhatItPrintsOrInvalid(f *testing.F) {
	for _, seed := range []string{"", "type=gha", "type=registry,ref=ghcr.io/a/b", "type=local,dest=/a", "type=local,dest=a", "ref=x,ref=y,type=registry", "type=gha,dest=/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, setting string) {
		c, err := ParseCache(setting, nil)
		if err != nil {
			if !errors.Is(err, fault.Invalid) && !errors.Is(err, fault.Environment) {
				t.Errorf("ParseCache(%q) = %v", setting, err)
			}
			return
		}
		if c.Type == "local" && !filepath.IsAbs(c.Dest) || strings.ContainsAny(c.Ref, ", ") {
			t.Errorf("ParseCache(%q) = %+v", setting, c)
		}
		if again, err := ParseCache(c.String(), nil); err != nil || again.String() != c.String() {
			t.Errorf("ParseCache(%q) prints as %q, which is read as %+v, %v", setting, c, again, err)
		}
	})
}

func FuzzParseListingFindsTheNameThatWasAsked(f *testing.F) {
	f.Add([]byte(`{"Name":"a*","Nodes":[{"Name":"a0"}]}`+"\n"), "a")
	f.Add([]byte("{}\n[]\n"), "")
	f.Add([]byte("no JSON"), "b")
	f.Fuzz(func(t *testing.T, out []byte, name string) {
		if l, err := parseListing(out, name); err == nil && strings.TrimSuffix(l.Name, "*") != name {
			t.Errorf("asked for %q, found %q", name, l.Name)
		} else if err != nil && !errors.Is(err, fault.Environment) {
			t.Errorf("parseListing = %v", err)
		}
	})
}

// What is read as pinned has a digest, and a platform has both of its parts.
func FuzzParsePinnedAndPlatform(f *testing.F) {
	for _, seed := range []string{"debian:bookworm-slim@sha256:" + strings.Repeat("0", 64), "ghcr.io/a/b@sha256:" + strings.Repeat("a", 64), "debian", "linux/amd64", "linux/arm/v7", "a/b/c/d", "@", ":"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if pinned, err := parsePinned(in); err == nil && (pinned.Digest.Validate() != nil || !strings.HasSuffix(in, "@"+pinned.Digest.String())) {
			t.Errorf("parsePinned(%q) = %v", in, pinned)
		}
		if p, err := parsePlatform(in); err == nil && strings.Trim(p.OS+"/"+p.Architecture+"/"+p.Variant, "/") != strings.Trim(in, "/") {
			t.Errorf("parsePlatform(%q) = %+v", in, p)
		}
	})
}
