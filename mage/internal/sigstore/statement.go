package sigstore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
)

// decodeStatement reads a statement strictly: version 1, these four members, one subject, one SHA-256
// digest. parsed is protojson's view of the same bytes, which refuses duplicate and unknown members
// at every level, so that no other parser can see another statement.
// https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
func decodeStatement(payload []byte, parsed *intoto.Statement) (evidence.Statement, error) {
	members, err := exactly(payload, "_type", "subject", "predicateType", "predicate")
	if err != nil {
		return evidence.Statement{}, err
	}
	if parsed.GetType() != evidence.StatementT {
		return evidence.Statement{}, fmt.Errorf("its type is %q", parsed.GetType())
	}
	if len(parsed.GetSubject()) != 1 {
		return evidence.Statement{}, fmt.Errorf("it has %d subjects", len(parsed.GetSubject()))
	}
	s := parsed.GetSubject()[0]
	about := digest.NewDigestFromEncoded(digest.SHA256, s.GetDigest()["sha256"])
	if s.GetUri()+s.GetMediaType()+s.GetDownloadLocation() != "" || len(s.GetContent())+len(s.GetAnnotations().GetFields()) > 0 {
		return evidence.Statement{}, fmt.Errorf("its subject says more than name and digest")
	}
	if len(s.GetDigest()) != 1 || about.Validate() != nil {
		return evidence.Statement{}, fmt.Errorf("its subject has the digests %v", s.GetDigest())
	}
	if parsed.GetPredicateType() == "" {
		return evidence.Statement{}, fmt.Errorf("it has no predicate type")
	}
	return evidence.Statement{
		Type:          parsed.GetType(),
		Subject:       [1]evidence.Subject{{Name: s.GetName(), Digest: s.GetDigest()}},
		PredicateType: parsed.GetPredicateType(),
		Predicate:     members["predicate"],
	}, nil
}

// exactly reads a JSON object that has these members and no others. Names are compared exactly,
// which encoding/json does not do for structs.
func exactly(content []byte, names ...string) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(content, &members); err != nil {
		return nil, err
	}
	got := slices.Sorted(maps.Keys(members))
	want := slices.Sorted(slices.Values(names))
	if !slices.Equal(got, want) {
		return nil, fmt.Errorf("its members are %q, not %q", got, want)
	}
	return members, nil
}
