package buildkit

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// maxSources bounds one apt sources file, in bytes.
const maxSources = 1 << 20

// hostMirrors returns the machine's own apt sources for a suite, as one-line entries; none when
// the machine is not a Debian of that suite, and mmdebstrap then uses Debian's own servers.
func hostMirrors(suite string) ([]string, error) {
	return readMirrors(os.DirFS("/etc/apt"), suite)
}

func readMirrors(apt fs.FS, suite string) ([]string, error) {
	var mirrors []string
	for _, pattern := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		files, err := fs.Glob(apt, pattern)
		if err != nil {
			return nil, fault.Wrap(err, fault.Environment, "looking for", pattern)
		}
		for _, name := range files {
			content, err := fs.ReadFile(apt, name)
			if err != nil {
				return nil, fault.Wrap(err, fault.Environment, "reading apt sources", name)
			}
			if len(content) > maxSources {
				return nil, fault.New(fault.Environment, "reading apt sources", name, "it has more than %d bytes", maxSources)
			}
			mirrors = append(mirrors, parseSources(string(content), path.Ext(name) == ".sources", suite)...)
		}
	}
	slices.Sort(mirrors)
	return slices.Compact(mirrors), nil
}

// parseSources reads one file in either format of sources.list(5) and returns what belongs to a
// suite and its -updates and -security companions.
func parseSources(content string, deb822 bool, suite string) []string {
	if deb822 {
		return parseStanzas(content, suite)
	}
	var mirrors []string
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "deb" {
			continue
		}
		options, fields := splitOptions(fields[1:])
		if len(fields) >= 3 && isDebian(options) {
			mirrors = append(mirrors, entries(fields[:1], fields[1:2], fields[2:], suite)...)
		}
	}
	return mirrors
}

// splitOptions separates "[arch=amd64 signed-by=…]" from what follows. The options themselves
// are dropped: they speak of the host, not of the image.
func splitOptions(fields []string) (options, rest []string) {
	if len(fields) == 0 || !strings.HasPrefix(fields[0], "[") {
		return nil, fields
	}
	end := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "]") })
	return fields[:end+1], fields[end+1:]
}

// isDebian reports whether what says who signs a source leaves room for Debian's archive keys.
// Sources of other vendors name their own key.
func isDebian(words []string) bool {
	signed := slices.IndexFunc(words, func(w string) bool { return strings.Contains(w, "signed-by=") || strings.Contains(w, "/keyrings/") })
	return signed < 0 || strings.Contains(words[signed], "debian-archive")
}

// parseStanzas reads the deb822 style: fields of a stanza, empty lines between stanzas.
func parseStanzas(content, suite string) []string {
	var mirrors []string
	stanza, field := map[string][]string{}, ""
	flush := func() {
		if slices.Contains(stanza["types"], "deb") && !slices.Contains(stanza["enabled"], "no") && isDebian(stanza["signed-by"]) {
			mirrors = append(mirrors, entries(stanza["uris"], stanza["suites"], stanza["components"], suite)...)
		}
		clear(stanza)
	}
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			stanza[field] = append(stanza[field], strings.Fields(line)...)
		default:
			name, value, _ := strings.Cut(line, ":")
			field = strings.ToLower(strings.TrimSpace(name))
			stanza[field] = strings.Fields(value)
		}
	}
	flush()
	return mirrors
}

// entries joins locations and suites, keeping what belongs to the wanted suite.
func entries(uris, suites, components []string, suite string) []string {
	var lines []string
	for _, uri := range uris {
		for _, s := range suites {
			ours := s == suite || s == suite+"-updates" || s == suite+"-security"
			if ours && len(components) > 0 && strings.Contains(uri, "://") {
				lines = append(lines, "deb "+uri+" "+s+" "+strings.Join(components, " "))
			}
		}
	}
	return lines
}
