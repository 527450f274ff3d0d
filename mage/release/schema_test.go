package release_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/containai/containai/mage/release"
)

// The published schema and the Go types are two descriptions of one document: whatever the planners
// write is valid, and what the decoder refuses by its shape is not.
func TestThePublishedSchemaDescribesTheDocument(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("../../artifacts/metadata/channels.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := func(content []byte) error {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(document)
	}
	var l log
	l.promote(t, "prod", 1)
	l.promote(t, "prod", 2)
	back, err := release.PlanRollback(l.head(), "prod", candidate(1).State(), by("it loses data"), true)
	if err != nil {
		t.Fatal(err)
	}
	l.append(t, back)
	versioned := candidate(3)
	versioned.Version = "v1.2.3-rc.1"
	hotfix := by("a hotfix")
	hotfix.Explicit, hotfix.Unsigned = true, true
	d, _, err := release.PlanPromote(l.head(), "tiny", "dev", versioned, hotfix)
	if err != nil {
		t.Fatal(err)
	}
	l.append(t, d)
	for _, head := range l {
		if err := valid(head.Content); err != nil {
			t.Errorf("generation %d is not valid: %v\n%s", head.Document.Generation, err, head.Content)
		}
	}
	for name, change := range map[string][2]string{
		"an unknown action":   {`"action": "promote"`, `"action": "overwrite"`},
		"an unknown member":   {`"family"`, `"famly"`},
		"a version that none": {`"v1.2.3-rc.1"`, `"1.2.3"`},
		"a tag of another":    {`"tag": "sha-`, `"tag": "`},
		"a tag with a line":   {`"tag": "sha-`, `"tag": "\nsha-`},
		"a member's name":     {`"tiny-base": "sha`, `"tiny/base": "sha`},
		"a denial of nothing": {"\"reason\": \"it loses data\",\n      \"by\"", "\"reason\": \"\",\n      \"by\""},
		"a short digest":      {`"previous": "sha256:`, `"previous": "sha256:0`},
		"a time with a zone":  {`T12:00:00Z`, `T12:00:00+01:00`},
	} {
		content := string(l.head().Content)
		bad := strings.Replace(content, change[0], change[1], 1)
		if bad == content {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if valid([]byte(bad)) == nil {
			t.Errorf("%s: the schema accepts it", name)
		}
		if _, err := release.DecodeDocument([]byte(bad)); err == nil {
			t.Errorf("%s: the decoder accepts it", name)
		}
	}
}
