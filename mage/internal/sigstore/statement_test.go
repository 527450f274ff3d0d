package sigstore

import (
	"strings"
	"testing"

	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
)

const sha256Of1 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"

const plainStatement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"` + sha256Of1 + `"}}],"predicateType":"https://example.com/p","predicate":{"a":1}}`

// parseStatement does what Verify does with a payload whose signature is good.
func parseStatement(payload string) (evidence.Statement, error) {
	parsed := new(intoto.Statement)
	if err := protojson.Unmarshal([]byte(payload), parsed); err != nil {
		return evidence.Statement{}, err
	}
	return decodeStatement([]byte(payload), parsed)
}

func TestAPlainStatementIsRead(t *testing.T) {
	t.Parallel()
	st, err := parseStatement(plainStatement)
	if err != nil {
		t.Fatal(err)
	}
	if st.About().Encoded() != sha256Of1 || string(st.Predicate) != `{"a":1}` {
		t.Errorf("statement %+v", st)
	}
}

// A signer whom we trust may still write what two parsers read differently.
func TestAnAmbiguousStatementIsRefusedEvenWhenSigned(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"an older statement version":       {"Statement/v1", "Statement/v0.1"},
		"an unknown member":                {`{"_type"`, `{"extra":1,"_type"`},
		"a subject in other case":          {`"predicateType"`, `"Subject":[],"predicateType"`},
		"protobuf's name of a member":      {`"predicateType"`, `"predicate_type"`},
		"two predicate types":              {`"predicateType"`, `"predicateType":"https://example.com/q","predicateType"`},
		"a duplicate in the predicate":     {`{"a":1}`, `{"a":1,"a":2}`},
		"no subject":                       {`[{"name":"x","digest":{"sha256":"` + sha256Of1 + `"}}]`, `[]`},
		"two subjects":                     {`"subject":[`, `"subject":[{"name":"y","digest":{"sha256":"` + sha256Of1 + `"}},`},
		"a subject with two digests":       {`{"sha256"`, `{"sha512":"00","sha256"`},
		"a digest twice":                   {`{"sha256"`, `{"sha256":"00","sha256"`},
		"a digest in upper case":           {sha256Of1, strings.ToUpper(sha256Of1)},
		"a short digest":                   {sha256Of1, sha256Of1[:62]},
		"no predicate":                     {`,"predicate":{"a":1}`, ``},
		"no predicate type":                {`"https://example.com/p"`, `""`},
		"something after the document":     {`{"a":1}}`, `{"a":1}}{}`},
		"a subject that also names a file": {`"name":"x"`, `"name":"x","uri":"https://example.com/other"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			payload := strings.Replace(plainStatement, change[0], change[1], 1)
			if payload == plainStatement {
				t.Fatal("nothing to change")
			}
			if st, err := parseStatement(payload); err == nil {
				t.Errorf("%s is read as %+v", payload, st)
			}
		})
	}
}
