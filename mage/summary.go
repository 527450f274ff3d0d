package mage

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/report"
)

// summary closes a release: what happened, what it holds, what was not scanned, what to do next.
func summary(m report.Model, dir, root string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%s\n\n", term.Escape(m.Headline()))
	if !m.Unchanged {
		members := term.Table{Head: []string{"member", "digest"}}
		for _, member := range m.Members {
			members.Rows = append(members.Rows, []string{member.Name, member.Digest.String()})
		}
		out.WriteString(members.String() + "\n")
		for _, member := range m.Members {
			if member.Kept != "" {
				fmt.Fprintf(&out, "kept      %s: %s\n", term.Escape(member.Name), term.Escape(member.Kept))
			}
			if member.Anew != "" {
				fmt.Fprintf(&out, "built     %s: %s\n", term.Escape(member.Name), term.Escape(member.Anew))
			}
		}
	}
	if len(m.Checks) > 0 && !m.Unchanged {
		checks := term.Table{Head: []string{"image", "platform", "digest", "check", "took", "result"}}
		for _, c := range m.Checks {
			checks.Rows = append(checks.Rows, []string{c.Image, c.Platform, shortDigest(c.Digest), c.Check, c.Took(), c.Result})
		}
		out.WriteString(checks.String() + "\n")
	}
	if m.Verdict != nil {
		for _, warning := range m.Verdict.Warnings {
			fmt.Fprintf(&out, "warning: %s\n", term.Escape(warning))
		}
	}
	if n := m.NotScanned(); n > 0 {
		fmt.Fprintf(&out, "%d of %d cells: vulnerabilities NOT SCANNED; they are not known to be clean.\n", n, len(m.Cells))
	}
	if relative, err := filepath.Rel(root, dir); err == nil {
		dir = relative
	}
	fmt.Fprintf(&out, "page      %s\n", filepath.Join(dir, "report.html"))
	if m.Verdict != nil && len(m.Verdict.Findings) > 0 && !m.Unchanged {
		fmt.Fprintf(&out, "findings  %s\n", filepath.Join(dir, "findings.sarif"))
	}
	if m.Reached == string(pipeline.UntilPromote) {
		fmt.Fprintf(&out, "next      mage verify:channel %s, or mage local:serve for other clients\n", m.Channel)
	}
	return out.String()
}

// shortDigest is as much of a digest as people compare.
func shortDigest(d digest.Digest) string { return d.String()[:min(len(d), len("sha256:")+12)] }

func fileList(files map[string]string, root string) string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := files[name]
		if relative, err := filepath.Rel(root, path); err == nil {
			path = relative
		}
		fmt.Fprintf(&out, "%s  %s\n", name, path)
	}
	return out.String()
}
