package lazyregexp_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

func TestItFindsWhatRegexpFinds(t *testing.T) {
	const pattern, text = `([a-z]+)([0-9])`, "one1, two2"
	lazy, eager := lazyregexp.New(pattern), regexp.MustCompile(pattern)
	for name, got := range map[string][2]any{
		"MatchString":           {lazy.MatchString(text), eager.MatchString(text)},
		"FindString":            {lazy.FindString(text), eager.FindString(text)},
		"FindStringIndex":       {lazy.FindStringIndex(text), eager.FindStringIndex(text)},
		"FindStringSubmatch":    {lazy.FindStringSubmatch(text), eager.FindStringSubmatch(text)},
		"FindAllStringSubmatch": {lazy.FindAllStringSubmatch(text, -1), eager.FindAllStringSubmatch(text, -1)},
		"ReplaceAllString":      {lazy.ReplaceAllString(text, "$2"), eager.ReplaceAllString(text, "$2")},
		"ReplaceAllStringFunc":  {lazy.ReplaceAllStringFunc(text, strings.ToUpper), eager.ReplaceAllStringFunc(text, strings.ToUpper)},
		"String":                {lazy.String(), eager.String()},
	} {
		if difference := cmp.Diff(got[1], got[0]); difference != "" {
			t.Errorf("%s:\n%s", name, difference)
		}
	}
}

func TestNobodyCompilesBeforeTheFirstUse(t *testing.T) {
	wrong := lazyregexp.New(`(`) // compiled here, it would panic here
	defer func() {
		if recover() == nil {
			t.Error("a wrong pattern matched")
		}
	}()
	wrong.MatchString("")
}
