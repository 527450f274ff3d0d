package report

import (
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
)

// Check is one look at one cell: what it said, and how this run came by that.
type Check struct {
	Image    string        `json:"image"`
	Platform string        `json:"platform"`
	Digest   digest.Digest `json:"digest"` // of the platform manifest, which was looked at
	Check    string        `json:"check"`
	Result   string        `json:"result"`
	Source   Source        `json:"source"`
	Seconds  float64       `json:"seconds"`
}

// Source is where the result of a check comes from.
type Source string

// The sources. A check that nobody made is shown as such, never left out.
const (
	Looked   Source = "looked"   // at the bytes, in this run
	Cached   Source = "cached"   // looked before, at the same bytes with the same tools
	Attested Source = "attested" // read from the evidence in the registry
)

// Took is how long a check took, for people.
func (c Check) Took() string {
	if c.Source != Looked {
		return string(c.Source)
	}
	return time.Duration(c.Seconds * float64(time.Second)).Round(10 * time.Millisecond).String()
}

// cellChecks is how many checks there are of each cell.
const cellChecks = 4

// newChecks tells of every check of a cell, in the order of the table.
func newChecks(r evidence.Report) []Check {
	cell := newCell(r)
	checks := []Check{
		{Check: "sbom", Result: fmt.Sprintf("%d packages", r.Packages)},
		{Check: "secrets", Result: cell.Secrets},
		{Check: "vulnerabilities", Result: cell.Vulns},
		{Check: "smoke", Result: cell.Smoke + " passed"},
	}
	for i := range checks {
		c := &checks[i]
		c.Image, c.Platform, c.Digest, c.Source = r.Cell.Image, r.Cell.Platform, r.Digest, Attested
		for _, made := range r.Checks {
			if made.Name != c.Check {
				continue
			}
			c.Source, c.Seconds = Looked, made.Took.Seconds()
			if made.Cached {
				c.Source = Cached
			}
		}
	}
	return checks
}
