package release

import "testing"

func TestDecodeStrictRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"an unknown field":   `{"known":1,"other":2}`,
		"a duplicate key":    `{"known":1,"known":2}`,
		"a nested duplicate": `{"list":[{"known":1,"known":1}]}`,
		"a wrong type":       `{"known":"x"}`,
		"trailing content":   `{"known":1} {}`,
		"a byte order mark":  "\ufeff{}",
		"invalid UTF-8":      "{\"known\":1}\xff",
		"a truncated object": `{"known":1`,
	} {
		t.Run(name, func(t *testing.T) {
			type inner struct{ Known int }
			var into struct {
				Known int
				List  []inner
			}
			if err := decodeStrict([]byte(doc), &into); err == nil {
				t.Errorf("decodeStrict(%q) = nil, want an error", doc)
			}
		})
	}
}
