package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of documents from outside.
const maxDepth = 32

// decodeStrict reads one JSON value: unknown fields, duplicate keys, invalid UTF-8, a byte order
// mark, deep nesting and trailing content are refused, with the line they stand on.
func decodeStrict(content []byte, into any) error {
	if !utf8.Valid(content) {
		return errors.New("it is not valid UTF-8")
	}
	if err := checkKeys(content); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("line %d: %w", lineAt(content, dec.InputOffset()), err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("line %d: more follows the document", lineAt(content, dec.InputOffset()))
	}
	return nil
}

// checkKeys walks the tokens of a document and refuses duplicate keys and deep nesting.
func checkKeys(content []byte) error {
	type level struct {
		object bool
		seen   map[string]bool
		key    bool // the next token of an object is a key
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	var stack []*level
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", lineAt(content, dec.InputOffset()), err)
		}
		top := (*level)(nil)
		if len(stack) > 0 {
			top = stack[len(stack)-1]
		}
		switch t := token.(type) {
		case json.Delim:
			if t == '}' || t == ']' {
				stack = stack[:len(stack)-1]
				continue
			}
			if top != nil && top.object {
				top.key = true
			}
			if len(stack) == maxDepth {
				return fmt.Errorf("line %d: nested deeper than %d", lineAt(content, dec.InputOffset()), maxDepth)
			}
			stack = append(stack, &level{object: t == '{', seen: map[string]bool{}, key: t == '{'})
		default:
			if top == nil || !top.object {
				continue
			}
			if top.key {
				text, _ := t.(string)
				name := strings.ToLower(text) // encoding/json takes either for the field
				if top.seen[name] {
					return fmt.Errorf("line %d: duplicate key %q", lineAt(content, dec.InputOffset()), text)
				}
				top.seen[name] = true
			}
			top.key = !top.key
		}
	}
}

// sameBytes names the first line in which content differs from the one way to write it.
func sameBytes(content, canonical []byte) error {
	if bytes.Equal(content, canonical) {
		return nil
	}
	for i := range content {
		if i == len(canonical) || content[i] != canonical[i] {
			return fmt.Errorf("line %d: it is not written in the canonical form", lineAt(content, int64(i)))
		}
	}
	return fmt.Errorf("line %d: it ends too early", lineAt(content, int64(len(content))))
}

func lineAt(content []byte, offset int64) int {
	return 1 + bytes.Count(content[:min(offset, int64(len(content)))], []byte("\n"))
}
