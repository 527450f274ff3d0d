package sigstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// CheckProvenance compares a SLSA provenance with the certificate that signed it, because sigstore-go
// does not look at predicates: a predicate is only the signer's claim, a certificate is proof. An
// external parameter that we do not know is refused, as the specification asks.
// https://slsa.dev/spec/v1.0/verifying-artifacts#step-2-check-expectations
func CheckProvenance(st evidence.Statement, id evidence.Identity) error {
	if err := checkProvenance(st, id); err != nil {
		return fault.Wrap(fmt.Errorf("%w: %w", WrongProvenance, err), fault.Forged, "checking provenance of", st.About().String())
	}
	return nil
}

func checkProvenance(st evidence.Statement, id evidence.Identity) error {
	if st.PredicateType != evidence.Provenance {
		return fmt.Errorf("its predicate type is %q", st.PredicateType)
	}
	if id.BuildType != evidence.GitHubBuildType && id.BuildType != evidence.LocalBuildType {
		return fmt.Errorf("the build type %q of issuer %q is not one that we know", id.BuildType, id.Issuer)
	}
	var p evidence.SLSA
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		return err
	}
	if len(p.BuildDefinition.ResolvedDependencies) == 0 {
		return errors.New("it names no source")
	}
	for _, object := range objects() {
		if err := object.check(st.Predicate); err != nil {
			return err
		}
	}
	return agree(provenanceFacts(p, id))
}

// provenanceFacts compares what a provenance says with what its certificate proves.
func provenanceFacts(p evidence.SLSA, id evidence.Identity) []Fact {
	workflow, source := p.BuildDefinition.ExternalParameters.Workflow, p.BuildDefinition.ResolvedDependencies[0]
	return []Fact{
		{"builder id", p.RunDetails.Builder.ID, id.BuilderID, exactly},
		{"build type", p.BuildDefinition.BuildType, id.BuildType, exactly},
		{"workflow repository", workflow.Repository, id.Repository, exactly},
		{"workflow ref", workflow.Ref, id.Ref, exactly},
		{"workflow path", workflow.Path, id.WorkflowPath, exactly},
		{"source", source.URI, "git+" + id.Repository + "@" + id.Ref, exactly},
		{"source commit", source.Digest["gitCommit"], id.Commit, exactly},
		{"invocation id", p.RunDetails.Metadata.InvocationID, id.InvocationID, exactly},
	}
}

// object is one kind of JSON object of the predicate and the members it may have. Unknown members
// would be seen by others and not by us; so would ones that differ from a known one only in case.
type object struct {
	path     []string // "*" is every element of a list
	required []string
	optional []string
}

func objects() []object {
	return []object{
		{nil, []string{"buildDefinition", "runDetails"}, nil},
		{[]string{"buildDefinition"}, []string{"buildType", "externalParameters", "resolvedDependencies"}, []string{"internalParameters"}},
		{[]string{"buildDefinition", "externalParameters"}, []string{"workflow"}, nil},
		{[]string{"buildDefinition", "externalParameters", "workflow"}, []string{"ref", "repository", "path"}, nil},
		{[]string{"buildDefinition", "resolvedDependencies", "*"}, []string{"uri", "digest"}, []string{"name"}},
		{[]string{"runDetails"}, []string{"builder", "metadata"}, nil},
		{[]string{"runDetails", "builder"}, []string{"id"}, []string{"version"}},
		{[]string{"runDetails", "metadata"}, []string{"invocationId"}, []string{"startedOn", "finishedOn"}},
	}
}

func (o object) check(predicate json.RawMessage) error {
	at, err := under(o.path, predicate)
	for _, one := range at {
		if err == nil {
			_, err = members(one, o.required, o.optional)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(append([]string{"provenance"}, o.path...), "."), err)
	}
	return nil
}

// under returns the values at a path, whose names are compared exactly.
func under(path []string, value json.RawMessage) ([]json.RawMessage, error) {
	if len(path) == 0 {
		return []json.RawMessage{value}, nil
	}
	var next []json.RawMessage
	if path[0] == "*" {
		if err := json.Unmarshal(value, &next); err != nil {
			return nil, err
		}
	} else {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(value, &members); err != nil {
			return nil, err
		}
		next = append(next, members[path[0]])
	}
	var all []json.RawMessage
	for _, v := range next {
		found, err := under(path[1:], v)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}
