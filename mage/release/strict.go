package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of documents from outside.
const maxDepth = 32

// decodeStrict reads one JSON value: unknown fields, duplicate keys, invalid UTF-8, a byte order
// mark, deep nesting and trailing content are refused, with the line and the path they stand at.
func decodeStrict(content []byte, into any) error {
	if !utf8.Valid(content) {
		return errors.New("it is not valid UTF-8")
	}
	o, err := outlineOf(content)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return o.explain(err, into)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("line %d: more follows the document", o.line(dec.InputOffset()))
	}
	return nil
}

// outline is where every value of a JSON document stands, in its order.
type outline struct {
	content []byte
	spots   []spot
}

// spot is a value: its path from the root, as in channels.prod.moved.at or list[2].known, and where
// it ends, or where its content begins when it has any.
type spot struct {
	path string
	end  int64
}

// level is an object or an array that is being read.
type level struct {
	path   string
	object bool
	seen   map[string]bool // keys, in lower case: encoding/json takes either for the field
	key    string          // whose value comes next; empty: a key does
	next   int             // index of an array's next value
}

// child is the path of the value that comes next.
func (l *level) child() string {
	switch {
	case !l.object:
		return fmt.Sprintf("%s[%d]", l.path, l.next)
	case l.path == "":
		return l.key
	}
	return l.path + "." + l.key
}

// outlineOf walks the tokens of a document and refuses duplicate keys and deep nesting.
func outlineOf(content []byte) (outline, error) {
	o := outline{content: content}
	dec := json.NewDecoder(bytes.NewReader(content))
	stack := []*level{{seen: map[string]bool{}}} // the root is the one value of an array without a name
	for {
		token, err := dec.Token()
		top := stack[len(stack)-1]
		if err == io.EOF && len(stack) == 1 {
			return o, nil
		}
		if err != nil {
			return o, o.wrong(top.child(), dec.InputOffset(), err)
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if name, ok := token.(string); ok && top.object && top.key == "" {
			top.key = name
			if lower := strings.ToLower(name); top.seen[lower] || name == "" {
				return o, o.wrong(top.child(), dec.InputOffset(), fmt.Errorf("duplicate or empty key %q", name))
			} else {
				top.seen[lower] = true
			}
			continue
		}
		path := top.child()
		if len(stack) == 1 {
			path = ""
		}
		o.spots = append(o.spots, spot{path, dec.InputOffset()})
		top.key, top.next = "", top.next+1
		if delim, ok := token.(json.Delim); ok {
			if len(stack) > maxDepth {
				return o, o.wrong(path, dec.InputOffset(), fmt.Errorf("nested deeper than %d", maxDepth))
			}
			stack = append(stack, &level{path: path, object: delim == '{', seen: map[string]bool{}})
		}
	}
}

// explain says where what encoding/json complains of stands.
func (o outline) explain(err error, into any) error {
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		s := o.at(wrongType.Offset)
		return o.wrong(s.path, s.end, fmt.Errorf("it is a %s, want %s", wrongType.Value, wrongType.Type))
	}
	var known outline // of what is left when unknown fields are ignored
	if json.Unmarshal(o.content, into) == nil {
		if again, err := json.Marshal(into); err == nil {
			known, _ = outlineOf(again)
		}
	}
	for _, s := range o.spots {
		name := s.path[strings.LastIndex(s.path, ".")+1:]
		if strings.HasSuffix(err.Error(), fmt.Sprintf("unknown field %q", name)) && !known.has(s.path) {
			return o.wrong(s.path, s.end, errors.New("no such field is known"))
		}
	}
	return err
}

func (o outline) has(path string) bool {
	return slices.ContainsFunc(o.spots, func(s spot) bool { return s.path == path })
}

// at is the first value that ends at an offset or after it.
func (o outline) at(offset int64) spot {
	i := slices.IndexFunc(o.spots, func(s spot) bool { return s.end >= offset })
	if i < 0 {
		return spot{end: offset}
	}
	return o.spots[i]
}

// misplaced is what is wrong with the value at a path.
type misplaced struct {
	path string
	error
}

func (m misplaced) Unwrap() error { return m.error }

// misplacedAt says that a value is not what it has to be.
func misplacedAt(path, format string, args ...any) error {
	return misplaced{path, fmt.Errorf(format, args...)}
}

// locate adds the line to an error that knows its path; of a value that is not there, that of the
// one it should be in.
func (o outline) locate(err error) error {
	var m misplaced
	if !errors.As(err, &m) {
		return err
	}
	for path := m.path; ; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		i := slices.IndexFunc(o.spots, func(s spot) bool { return s.path == path })
		if i >= 0 || path == "" {
			return o.wrong(m.path, o.spots[max(i, 0)].end, m.error)
		}
	}
}

func (o outline) wrong(path string, offset int64, err error) error {
	if path == "" {
		return fmt.Errorf("line %d: %w", o.line(offset), err)
	}
	quoted := strconv.Quote(path) // its keys are their writer's, line ends and all
	return fmt.Errorf("line %d: %s: %w", o.line(offset), quoted[1:len(quoted)-1], err)
}

// sameBytes names the first line in which content differs from the one way to write it.
func (o outline) sameBytes(canonical []byte) error {
	if bytes.Equal(o.content, canonical) {
		return nil
	}
	for i := range o.content {
		if i == len(canonical) || o.content[i] != canonical[i] {
			return o.wrong(o.at(int64(i)).path, int64(i), errors.New("it is not written in the canonical form"))
		}
	}
	return o.wrong("", int64(len(o.content)), errors.New("it ends too early"))
}

func (o outline) line(offset int64) int {
	return 1 + bytes.Count(o.content[:min(offset, int64(len(o.content)))], []byte("\n"))
}
