package sigstore

import (
	"encoding/json"
	"errors"
	"fmt"

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
	if id.BuildType == "" {
		return fmt.Errorf("the issuer %q has no build type that we know", id.Issuer)
	}
	if err := checkParameters(st.Predicate); err != nil {
		return err
	}
	var p evidence.SLSA
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		return err
	}
	if len(p.BuildDefinition.ResolvedDependencies) == 0 {
		return errors.New("it names no source")
	}
	workflow, source := p.BuildDefinition.ExternalParameters.Workflow, p.BuildDefinition.ResolvedDependencies[0]
	return agree(
		fact{"builder id", p.RunDetails.Builder.ID, id.BuilderID},
		fact{"build type", p.BuildDefinition.BuildType, id.BuildType},
		fact{"workflow repository", workflow.Repository, id.Repository},
		fact{"workflow ref", workflow.Ref, id.Ref},
		fact{"workflow path", workflow.Path, id.WorkflowPath},
		fact{"source", source.URI, "git+" + id.Repository + "@" + id.Ref},
		fact{"source commit", source.Digest["gitCommit"], id.Commit},
		fact{"invocation id", p.RunDetails.Metadata.InvocationID, id.InvocationID},
	)
}

// checkParameters refuses members that the struct would not show: unknown ones, and ones that differ
// from a known one only in case.
func checkParameters(predicate json.RawMessage) error {
	top, err := exactly(predicate, "buildDefinition", "runDetails")
	if err != nil {
		return err
	}
	var definition map[string]json.RawMessage
	if err := json.Unmarshal(top["buildDefinition"], &definition); err != nil {
		return err
	}
	names := []string{"buildType", "externalParameters", "resolvedDependencies"}
	if _, ok := definition["internalParameters"]; ok {
		names = append(names, "internalParameters")
	}
	if _, err := exactly(top["buildDefinition"], names...); err != nil {
		return err
	}
	external, err := exactly(definition["externalParameters"], "workflow")
	if err != nil {
		return fmt.Errorf("external parameters: %w", err)
	}
	if _, err := exactly(external["workflow"], "ref", "repository", "path"); err != nil {
		return fmt.Errorf("external parameters: %w", err)
	}
	_, err = exactly(top["runDetails"], "builder", "metadata")
	return err
}
