package family_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
)

const day = 24 * time.Hour

func TestRetentionIsReadWithItsDefaults(t *testing.T) {
	for name, test := range map[string]struct {
		added string
		keep  family.Keep
		want  family.Retention
	}{
		"nothing is said":  {"", family.Keep{}, family.Retention{Grace: day, Records: 30 * day, Share: 50}},
		"all of a channel": {"    keep: all\n", family.Keep{All: true}, family.Retention{Grace: day, Records: 30 * day, Share: 50}},
		"everything": {
			"    keep: {releases: 10, within: 180d}\nretention: {grace: 48h, records: 60d, versions: 365d, protect: [latest, demo-*], others: delete, share: 80}\n",
			family.Keep{Releases: 10, Within: 180 * day},
			family.Retention{Grace: 2 * day, Records: 60 * day, Versions: 365 * day, Protect: []string{"latest", "demo-*"}, Others: true, Share: 80},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := family.Parse("family.yaml", []byte(small+test.added))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, f.Retention); diff != "" {
				t.Errorf("retention (-want +got):\n%s", diff)
			}
			if got := f.Channels["dev"].Keep; got != test.keep || got.Stated() != (test.keep != family.Keep{}) {
				t.Errorf("dev keeps %+v, want %+v", got, test.keep)
			}
		})
	}
}

func TestAPolicyThatCannotBeMeantIsRefusedWithItsLine(t *testing.T) {
	for added, want := range map[string]string{
		"    keep: none\n":                      `family.yaml:21: "none" is not one of [all]`,
		"    keep: {releases: 0}\n":             `family.yaml:21: a channel keeps at least 1 release`,
		"    keep: {within: 30d}\n":             `family.yaml:21: field "releases" is missing`,
		"    keep: {releases: -1}\n":            `family.yaml:21: a channel keeps at least 1 release`,
		"retention: {grace: 5m}\n":              `family.yaml:21: a grace of 5m is shorter than 1h0m0s`,
		"retention: {records: 30}\n":            `family.yaml:21: "30" is not a time span`,
		"retention: {versions: -3d}\n":          `family.yaml:21: "-3d" is not a time span`,
		"retention: {versions: 99999999999d}\n": `family.yaml:21: "99999999999d" is not a time span`,
		"retention: {protect: ['a[']}\n":        `family.yaml:21: "a[" is not a pattern of tags`,
		"retention: {share: 0}\n":               `family.yaml:21: "0" is not a percentage`,
		"retention: {others: drop}\n":           `family.yaml:21: "drop" is not one of [keep delete]`,
	} {
		_, err := family.Parse("family.yaml", []byte(small+added))
		var problems *family.Problems
		if !errors.As(err, &problems) || !strings.HasPrefix(problems.List[0].String(), want) {
			t.Errorf("%q: %v\nwant %s", added, err, want)
		}
	}
}
