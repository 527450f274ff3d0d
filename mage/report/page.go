package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/release"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageScript string

// HTML returns report.html: one self-contained page that loads nothing, and that is whole without its
// script.
func (m Model) HTML() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{
		"short": short, "bytes": Bytes, "cut": cutDigest, "severity": severityClass, "list": listNames,
	}).Parse(pageHTML)
	if err != nil {
		return nil, fmt.Errorf("parsing page: %w", err)
	}
	if m, err = m.visible(); err != nil {
		return nil, fmt.Errorf("escaping for the page: %w", err)
	}
	var out bytes.Buffer
	err = t.Execute(&out, page{
		Model: m, Matrix: matrix(m.Checks), Pictures: m.pictures(), Changes: m.changes(), Bars: m.bars(), Timeline: m.timeline(),
		Style: template.CSS(pageCSS), Script: template.JS(pageScript), //nolint:gosec // both are embedded files of ours
		Policy: "default-src 'none'; img-src data:; style-src " + allowed(pageCSS) + "; script-src " + allowed(pageScript) + "; base-uri 'none'; form-action 'none'",
	})
	return out.Bytes(), err
}

// visible spells out what HTML leaves to act unseen: marks that turn the direction of writing, letters
// without width and the like, in every text of the model. Its JSON has each of them in a string.
func (m Model) visible() (Model, error) {
	document, err := m.JSON()
	if err != nil {
		return m, err
	}
	var out bytes.Buffer
	for _, r := range string(document) {
		if unicode.IsPrint(r) || r < 0x80 {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, `\\u%04x`, r)
		}
	}
	var seen Model
	err = json.Unmarshal(out.Bytes(), &seen)
	return seen, err
}

// allowed is how a content security policy names one piece of inline text, and no other:
// https://www.w3.org/TR/CSP3/#grammardef-hash-source
func allowed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// page is a model with what only the page shows.
type page struct {
	Model
	Style    template.CSS
	Script   template.JS
	Policy   string
	Matrix   []row
	Pictures []picture
	Changes  changes
	Bars     []bar
	Timeline []span
}

// word is text with the class that colours it.
type word struct{ Word, Class string }

// Refused reports whether the gate said no: then that comes first.
func (p page) Refused() bool { return p.Verdict != nil && p.Verdict.Refuses() }

// Standing is what became of the release, in a word.
func (p page) Standing() word {
	switch {
	case p.Refused():
		return word{"refused", "bad"}
	case p.Reached == "promote":
		return word{"serving " + p.Channel, "good"}
	case p.Reached == "":
		return word{"not built", "bad"}
	}
	return word{map[string]string{"build": "built", "inspect": "approved", "publish": "published", "attest": "signed"}[p.Reached], "warn"}
}

// figure is one number that people look for first.
type figure struct{ Name, Value, Note, Class string }

// Figures are the numbers at the top.
func (p page) Figures() []figure {
	images, kept := 0, 0
	for _, m := range p.Members {
		if m.Kind == "image" {
			images++
		}
		if m.Kept != "" {
			kept++
		}
	}
	figures := []figure{{Name: "images", Value: fmt.Sprint(images), Note: plural(len(p.Members)-images, "artifact")}}
	if kept > 0 {
		figures[0].Note += fmt.Sprintf(", %d kept", kept)
	}
	if p.Generation > 0 {
		figures = append(figures, figure{Name: "generation", Value: fmt.Sprint(p.Generation), Note: "of the ledger"})
	}
	if len(p.Cells) > 0 {
		figures = append(figures, figure{Name: "cells inspected", Value: fmt.Sprint(len(p.Cells)), Note: "images × platforms"})
	}
	if v := p.Verdict; v != nil {
		f := figure{Name: "findings", Value: fmt.Sprint(len(v.Findings)), Note: fmt.Sprintf("%d stop it", v.Blocking())}
		if v.Blocking() > 0 {
			f.Class = "bad"
		}
		figures = append(figures, f)
	}
	if size := p.stored(); size > 0 {
		figures = append(figures, figure{Name: "stored", Value: Bytes(size), Note: "each layer once"})
	}
	return append(figures, figure{Name: "took", Value: p.Duration().String(), Note: fmt.Sprintf("%d requests", p.Requests.Reads+p.Requests.Writes)})
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// maxFindings is how many findings the page lists.
const maxFindings = 500

// Shown are the findings that the page lists, the worst first.
func (p page) Shown() []release.Found {
	return p.Verdict.Findings[:min(len(p.Verdict.Findings), maxFindings)]
}

// Hidden is how many more there are.
func (p page) Hidden() int { return len(p.Verdict.Findings) - len(p.Shown()) }

// row is one cell with all of its checks.
type row struct {
	Image, Platform string
	Digest          digest.Digest
	Checks          []result
}

type result struct {
	Check
	Class string
}

// matrix puts the checks of a cell into a row.
func matrix(checks []Check) []row {
	var rows []row
	for _, c := range checks {
		if n := len(rows); n == 0 || rows[n-1].Image != c.Image || rows[n-1].Platform != c.Platform || rows[n-1].has(c.Check) {
			rows = append(rows, row{Image: c.Image, Platform: c.Platform, Digest: c.Digest})
		}
		r := &rows[len(rows)-1]
		r.Checks = append(r.Checks, result{c, resultClass(c)})
	}
	return rows
}

func (r row) has(check string) bool {
	return slices.ContainsFunc(r.Checks, func(c result) bool { return c.Check.Check == check })
}

// Names are the checks' names, of the first cell.
func (p page) Names() []string {
	var names []string
	for _, c := range p.Matrix[0].Checks {
		names = append(names, c.Check.Check)
	}
	return names
}

func resultClass(c Check) string {
	switch {
	case notScanned(c.Result):
		return "warn"
	case c.Check == "secrets" && c.Result != "none", c.Check == "smoke" && !allPassed(c.Result):
		return "bad"
	case c.Result == "none":
		return "good"
	}
	return ""
}

// allPassed reads "2 of 3 passed".
func allPassed(result string) bool {
	words := strings.Fields(result)
	return len(words) > 2 && words[0] == words[2]
}

func severityClass(severity string) string {
	switch severity {
	case "CRITICAL", "HIGH":
		return "bad"
	case "MEDIUM":
		return "warn"
	}
	return ""
}

func cutDigest(d digest.Digest) string { return d.String()[:min(len(d), len("sha256:")+12)] }

func listNames(names []string) string { return strings.Join(names, ", ") }
