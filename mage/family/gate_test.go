package family_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// gated is the small family with lines added to the gates of dev and of prod.
func gated(lines string) string {
	gate := "    gate:\n      severities: []\n      unscanned: allow\n      local-base: allow\n" + lines
	return strings.Replace(small, "    gate: {severities: [], unscanned: allow, local-base: allow}\n", gate+"  prod:\n"+gate, 1)
}

func TestParseReadsWaivers(t *testing.T) {
	f, err := family.Parse("family.yaml", []byte(gated(`      waivers:
        - {id: CVE-2026-1, image: tiny, package: openssl, version: 3.0.1, reason: not reachable, expires: 2026-12-31}
        - {id: aws-access-key-id, path: usr/share/doc/example, reason: an example, expires: 2026-12-31}
`)))
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)
	want := []family.Waiver{
		{ID: "CVE-2026-1", Image: "tiny", Package: "openssl", Version: "3.0.1", Reason: "not reachable", Expires: end, Source: "family.yaml:25"},
		{ID: "aws-access-key-id", Path: "usr/share/doc/example", Reason: "an example", Expires: end, Source: "family.yaml:26"},
	}
	if diff := cmp.Diff(want, f.Channels["dev"].Gate.Waivers); diff != "" {
		t.Errorf("waivers (-want +got):\n%s", diff)
	}
	if f.Channels["prod"].Gate.Unused || !f.Channels["dev"].Gate.Unused {
		t.Error("an unused waiver is an error on prod, and elsewhere a warning")
	}
}

func TestF8ABroadWaiverIsRefused(t *testing.T) {
	for name, tt := range map[string]struct{ waiver, want string }{
		"no package and no path":           {"{id: CVE-1, reason: x, expires: 2026-12-31}", "name the package, or the path"},
		"a rule for secrets without path":  {"{id: private-key, reason: x, expires: 2026-12-31}", "it is a rule for secrets, so name the path"},
		"a rule for secrets for a package": {"{id: private-key, path: a, package: openssl, reason: x, expires: 2026-12-31}", "not in package"},
		"every id":                         {"{id: '*', package: openssl, reason: x, expires: 2026-12-31}", "without wildcards"},
		"every package":                    {"{id: CVE-1, package: '*', reason: x, expires: 2026-12-31}", "without wildcards"},
		"a directory":                      {"{id: private-key, path: usr/share/*, reason: x, expires: 2026-12-31}", "without wildcards"},
		"no reason":                        {"{id: CVE-1, package: openssl, expires: 2026-12-31}", `"reason" is missing`},
		"no expiry":                        {"{id: CVE-1, package: openssl, reason: x}", `"expires" is missing`},
		"an image that is none":            {"{id: CVE-1, image: tinny, package: openssl, reason: x, expires: 2026-12-31}", `is for image "tinny", which is not in the family: did you mean "tiny"?`},
		"an expiry that is no day":         {"{id: CVE-1, package: openssl, reason: x, expires: never}", "is not a day"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := family.Parse("family.yaml", []byte(gated("      waivers:\n        - "+tt.waiver+"\n")))
			var problems *family.Problems
			if !errors.Is(err, fault.Invalid) || !errors.As(err, &problems) || problems.List[0].Line != 25 || !strings.Contains(problems.List[0].Text, tt.want) {
				t.Errorf("Parse() = %v, want line 25 to say %q", err, tt.want)
			}
		})
	}
}
