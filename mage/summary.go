package mage

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

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
	}
	if len(m.Cells) > 0 && !m.Unchanged {
		cells := term.Table{Head: []string{"image", "platform", "packages", "secrets", "vulnerabilities", "smoke tests"}}
		for _, c := range m.Cells {
			cells.Rows = append(cells.Rows, []string{c.Image, c.Platform, fmt.Sprint(c.Packages), c.Secrets, c.Vulns, c.Smoke})
		}
		out.WriteString(cells.String() + "\n")
	}
	if n := m.NotScanned(); n > 0 {
		fmt.Fprintf(&out, "%d of %d cells: vulnerabilities NOT SCANNED; they are not known to be clean.\n", n, len(m.Cells))
	}
	if relative, err := filepath.Rel(root, dir); err == nil {
		dir = relative
	}
	fmt.Fprintf(&out, "page      %s\n", filepath.Join(dir, "report.html"))
	if m.Reached == string(pipeline.UntilPromote) {
		fmt.Fprintf(&out, "next      mage verify:channel %s, or mage local:serve for other clients\n", m.Channel)
	}
	return out.String()
}

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
