package sigstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/containai/containai/mage/evidence"
)

// decodeStatement reads a statement strictly: version 1, these four members, one subject, one SHA-256
// digest. parsed is protojson's view of the same bytes, which refuses duplicate and unknown members
// at every level, so that no other parser can see another statement.
// https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
func decodeStatement(payload []byte, parsed *intoto.Statement) (evidence.Statement, error) {
	parts, err := members(payload, []string{"_type", "subject", "predicateType", "predicate"}, nil)
	if err != nil {
		return evidence.Statement{}, err
	}
	for _, c := range statementChecks() {
		if err := c(parsed); err != nil {
			return evidence.Statement{}, err
		}
	}
	s := parsed.GetSubject()[0]
	return evidence.Statement{
		Type:          parsed.GetType(),
		Subject:       [1]evidence.Subject{{Name: s.GetName(), Digest: s.GetDigest()}},
		PredicateType: parsed.GetPredicateType(),
		Predicate:     parts["predicate"],
	}, nil
}

// statementCheck is one thing that a statement must be; those that follow build on it.
type statementCheck func(*intoto.Statement) error

func statementChecks() []statementCheck {
	return []statementCheck{
		isVersionOne,
		hasOneSubject,
		hasPlainSubject,
		hasOneDigest,
		hasPredicateType,
		hasPlainMembers,
	}
}

func isVersionOne(s *intoto.Statement) error {
	if s.GetType() != evidence.StatementT {
		return fmt.Errorf("its type is %q", s.GetType())
	}
	return nil
}

func hasOneSubject(s *intoto.Statement) error {
	if len(s.GetSubject()) != 1 {
		return fmt.Errorf("it has %d subjects", len(s.GetSubject()))
	}
	return nil
}

// hasPlainSubject: what a subject says beside name and digest, others might go by.
func hasPlainSubject(s *intoto.Statement) error {
	for _, about := range s.GetSubject() {
		if about.GetUri()+about.GetMediaType()+about.GetDownloadLocation() != "" || len(about.GetContent())+len(about.GetAnnotations().GetFields()) > 0 {
			return errors.New("its subject says more than name and digest")
		}
	}
	return nil
}

func hasOneDigest(s *intoto.Statement) error {
	for _, about := range s.GetSubject() {
		hex := about.GetDigest()["sha256"]
		if len(about.GetDigest()) != 1 || digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() != nil {
			return fmt.Errorf("its subject has the digests %v", about.GetDigest())
		}
	}
	return nil
}

func hasPredicateType(s *intoto.Statement) error {
	if s.GetPredicateType() == "" {
		return errors.New("it has no predicate type")
	}
	return nil
}

// hasPlainMembers: no object of the predicate has two members that differ only in case. Some parsers,
// encoding/json among them, take either for the other, and so would not see what others see.
func hasPlainMembers(s *intoto.Statement) error {
	return plain(structpb.NewStructValue(s.GetPredicate()))
}

func plain(v *structpb.Value) error {
	for _, element := range v.GetListValue().GetValues() {
		if err := plain(element); err != nil {
			return err
		}
	}
	seen := map[string]string{}
	for name, member := range v.GetStructValue().GetFields() {
		folded := strings.Map(fold, name)
		if other, twice := seen[folded]; twice {
			return fmt.Errorf("its predicate has a member %q and a member %q", other, name)
		}
		seen[folded] = name
		if err := plain(member); err != nil {
			return err
		}
	}
	return nil
}

// fold gives one rune to all that differ only in case, the Kelvin sign and the long s among them.
func fold(r rune) rune {
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return least
}

// members reads a JSON object that has the required members, may have the optional ones, and has no
// others. Names are compared exactly, which encoding/json does not do for structs.
func members(content []byte, required, optional []string) (map[string]json.RawMessage, error) {
	var got map[string]json.RawMessage
	if err := json.Unmarshal(content, &got); err != nil {
		return nil, err
	}
	want := slices.Clone(required)
	for _, name := range optional {
		if _, ok := got[name]; ok {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
		return nil, fmt.Errorf("its members are %q, not %q", names, want)
	}
	return got, nil
}
