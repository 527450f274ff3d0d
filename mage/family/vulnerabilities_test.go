package family_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
)

func TestVulnerabilitiesNameWhereTheirDatabaseComesFrom(t *testing.T) {
	for added, want := range map[string]family.Vulnerabilities{
		"": {MaxAge: 24 * time.Hour}, // also of a directory that CONTAINAI_VULNERABILITY_DB names
		"vulnerabilities: {sources: [ghcr.io/aquasecurity/trivy-db:2]}\n": {
			Sources: []string{"ghcr.io/aquasecurity/trivy-db:2"}, MaxAge: 24 * time.Hour,
		},
		"vulnerabilities: {mirror: widget-vulnerabilities, sources: [localhost:5000/db/trivy@sha256:" + strings.Repeat("a", 64) + "], max-age: 2d}\n": {
			Mirror: "widget-vulnerabilities", Sources: []string{"localhost:5000/db/trivy@sha256:" + strings.Repeat("a", 64)}, MaxAge: 48 * time.Hour,
		},
	} {
		f, err := family.Parse("family.yaml", []byte(small+added))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.Vulnerabilities); diff != "" {
			t.Errorf("%q (-want +got):\n%s", added, diff)
		}
	}
}

func TestASourceThatCannotBeAskedIsRefusedWithItsLine(t *testing.T) {
	for added, want := range map[string]string{
		"vulnerabilities: {mirror: mirror}\n":                             `family.yaml:21: field "sources" is missing`,
		"vulnerabilities: {sources: [trivy-db]}\n":                        `family.yaml:21: "trivy-db" is not a reference`,
		"vulnerabilities: {sources: [ghcr.io/a/b:2], mirror: A/b}\n":      `family.yaml:21: "A/b" is not a repository name`,
		"vulnerabilities: {sources: [ghcr.io/a/b:2], max-age: yesterday}": `family.yaml:21: "yesterday" is not a time span`,
	} {
		_, err := family.Parse("family.yaml", []byte(small+added))
		var problems *family.Problems
		if !errors.As(err, &problems) || !strings.HasPrefix(problems.List[0].String(), want) {
			t.Errorf("%q: %v\nwant %s", added, err, want)
		}
	}
}
