package pack

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containai/containai/mage/fault"
)

// kind is what an entry is. There are no others: no hard links, devices, pipes or sockets.
type kind byte

const (
	dir kind = iota + 1
	file
	link
)

// Bounds of the grammar of names.
const (
	maxElement = 255 // bytes of one element of a path: NAME_MAX
	maxTarget  = 255 // bytes of a link's target
	maxHops    = 8   // links behind one link
)

// survey is what is known of an archive's names. It refuses what a file system, a shell or a
// person could take for something else.
type survey struct {
	maxName int
	kinds   map[string]kind
	implied map[string]bool   // directories that only their content names
	folded  map[string]string // lower-case path → path
	targets map[string]string // of links
}

func newSurvey(maxName int) *survey {
	return &survey{maxName: maxName, kinds: map[string]kind{}, implied: map[string]bool{}, folded: map[string]string{}, targets: map[string]string{}}
}

// add claims the name of an entry and of the directories above it.
func (s *survey) add(e entry) error {
	if err := s.checkName(e.name); err != nil {
		return err
	}
	for i, c := range e.name {
		if c != '/' {
			continue
		}
		if err := s.claimParent(e.name[:i]); err != nil {
			return err
		}
	}
	if err := s.claim(e.name, e.kind); err != nil {
		return err
	}
	if e.kind != link {
		return nil
	}
	s.targets[e.name] = e.target
	return checkTarget(e.name, e.target)
}

// checkName holds names to relative paths of printable ASCII: an alphabet in which no two names
// look alike, and which every file system stores as it is.
func (s *survey) checkName(name string) error {
	switch {
	case len(name) > s.maxName:
		return refused(name[:s.maxName], "its name has %d bytes, the limit is %d", len(name), s.maxName)
	case !fs.ValidPath(name) || name == ".":
		return refused(name, "its name is not a relative path without . and ..")
	}
	for element := range strings.SplitSeq(name, "/") {
		if len(element) > maxElement {
			return refused(name, "an element of its name has %d bytes, the limit is %d", len(element), maxElement)
		}
		if !plain(element) {
			return refused(name, "a name holds printable ASCII only, without \\ and without blanks at the ends of an element")
		}
	}
	return nil
}

// plain reports whether an element has printable ASCII only, no backslash, no outer blanks.
func plain(element string) bool {
	for i := range len(element) {
		if c := element[i]; c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return strings.Trim(element, " ") == element
}

func checkTarget(name, target string) error {
	switch {
	case target == "" || len(target) > maxTarget:
		return refused(name, "its target has %d bytes, a link has 1 to %d", len(target), maxTarget)
	case strings.HasPrefix(target, "/"):
		return refused(name, "it links to the absolute path %q", target)
	case !plain(target):
		return refused(name, "its target %q is not of printable ASCII", target)
	}
	return nil
}

func (s *survey) claimParent(name string) error {
	switch s.kinds[name] {
	case dir:
		return nil
	case 0:
		s.implied[name] = true
		return s.record(name, dir)
	}
	return refused(name, "it is not a directory, but another entry stands below it")
}

func (s *survey) claim(name string, k kind) error {
	if s.kinds[name] == 0 {
		return s.record(name, k)
	}
	if k == dir && s.implied[name] {
		delete(s.implied, name)
		return nil
	}
	return refused(name, "it stands in the archive twice")
}

func (s *survey) record(name string, k kind) error {
	lower := strings.ToLower(name)
	if other, taken := s.folded[lower]; taken {
		return refused(name, "its name differs from %q only in case", other)
	}
	s.folded[lower], s.kinds[name] = name, k
	return nil
}

// resolveLinks follows every link as a kernel would and refuses those that leave the tree, that
// lead nowhere or in circles. It is asked when every name is known.
func (s *survey) resolveLinks() error {
	for _, name := range slices.Sorted(maps.Keys(s.targets)) {
		if err := s.resolve(name); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) resolve(name string) error {
	at, hops := path.Dir(name), 0
	rest := strings.Split(s.targets[name], "/")
	for len(rest) > 0 {
		element := rest[0]
		rest = rest[1:]
		if element == "" || element == "." {
			continue
		}
		if element == ".." {
			if at == "." {
				return refused(name, "it links to %q, outside of the archive", s.targets[name])
			}
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, element)
		switch s.kinds[next] {
		case dir:
			at = next
		case file:
			if len(rest) > 0 {
				return refused(name, "it links through the file %q", next)
			}
		case link:
			if hops++; hops > maxHops {
				return refused(name, "it links through more than %d links", maxHops)
			}
			rest = append(strings.Split(s.targets[next], "/"), rest...)
		default:
			return refused(name, "it links to %q, which is not in the archive", s.targets[name])
		}
	}
	return nil
}

func refused(name, format string, args ...any) error {
	return fault.New(fault.Refused, "checking", quote(name), format, args...)
}
