package family

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/containai/containai/mage/fault"
)

// Problems is everything that is wrong with a family file.
type Problems struct{ List []Problem }

// Problem is one thing that is wrong, at a line counted from 1.
type Problem struct {
	File string
	Line int
	Text string
}

func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text) }

func (p *Problems) Error() string {
	lines := make([]string, len(p.List))
	for i, problem := range p.List {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// reader walks a YAML document, remembers the line of every name and collects complaints.
type reader struct {
	file     string
	problems []Problem
	lines    map[string]int // "images.containai" → line
	path     []string
}

type fields map[string]func(*yaml.Node)

func (r *reader) complain(line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.file, line, fmt.Sprintf(format, args...)})
}

func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
	return &fault.Error{Op: "reading", Subject: r.file, Kind: fault.Invalid, Err: &Problems{r.problems},
		Hint: "edit the lines named above, then run: mage family:check"}
}

// fields reads a mapping with known keys, some of them required.
func (r *reader) fields(n *yaml.Node, known fields, required ...string) {
	seen := map[string]bool{}
	r.each(n, func(key string, value *yaml.Node) {
		seen[key] = true
		if read, ok := known[key]; ok {
			read(value)
			return
		}
		names := slices.Sorted(maps.Keys(known))
		r.complain(r.at(r.path...), "unknown field %q%s", key, suggest(key, names))
	})
	r.missing(n, seen, required)
}

// some reads the fields that matter of a mapping that others define, and passes over the rest.
func (r *reader) some(n *yaml.Node, wanted fields, required ...string) {
	seen := map[string]bool{}
	r.each(n, func(key string, value *yaml.Node) {
		seen[key] = true
		if read, ok := wanted[key]; ok {
			read(value)
		}
	})
	r.missing(n, seen, required)
}

func (r *reader) missing(n *yaml.Node, seen map[string]bool, required []string) {
	for _, key := range required {
		if !seen[key] && n.Kind == yaml.MappingNode {
			r.complain(n.Line, "field %q is missing", key)
		}
	}
}

// place is where a value stands, for messages.
func (r *reader) place(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.file, n.Line) }

// each reads a mapping in file order and refuses duplicate keys.
func (r *reader) each(n *yaml.Node, read func(key string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		r.complain(n.Line, "expected a mapping of names to values")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			r.complain(key.Line, "%q stands here twice", key.Value)
		}
		seen[key.Value] = true
		r.path = append(r.path, key.Value)
		r.remember(key.Line)
		read(key.Value, value)
		r.path = r.path[:len(r.path)-1]
	}
}

func (r *reader) items(n *yaml.Node, read func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.complain(n.Line, "expected a list")
		return
	}
	for _, item := range n.Content {
		read(item)
	}
}

func (r *reader) list(n *yaml.Node) []string {
	var out []string
	r.items(n, func(v *yaml.Node) { out = append(out, r.text(v)) })
	return out
}

func (r *reader) text(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		r.complain(n.Line, "expected a value")
	}
	return n.Value
}

func (r *reader) remember(line int) {
	if r.lines == nil {
		r.lines = map[string]int{}
	}
	r.lines[strings.Join(r.path, ".")] = line
}

// at returns the line of a name such as "images.containai", or 1.
func (r *reader) at(path ...string) int { return max(r.lines[strings.Join(path, ".")], 1) }

// suggest returns `: did you mean "x"?` for the nearest known word, or "".
func suggest(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
