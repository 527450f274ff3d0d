package mage

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// The wiring of the ports, for tests that release without a builder.

func NewRegistryPort(client *registry.Client, members []string) (pipeline.Registry, error) {
	return verify.Connect(client, members)
}

func NewLayoutPort(l *registry.Layout) pipeline.Layout { return layoutPort{l} }

func NewDist(root string, src release.Source) pipeline.Dist { return newDist(root, src) }

// NewTrustPort trusts one signer, who releases and may move every channel.
func NewTrustPort(trust *verify.Trust, signer family.Signer) pipeline.Verifier {
	return onlySigner{&trustPort{judges: map[string][]judge{"": {{trust: trust, signer: signer}}}}}
}

type onlySigner struct{ *trustPort }

func (o onlySigner) Verify(bundle []byte, subject digest.Digest, commit, _ string) (evidence.Statement, error) {
	return o.trustPort.Verify(bundle, subject, commit, "")
}

func (o onlySigner) Enduring() pipeline.Verifier { return o }

func (o onlySigner) VerifyMover(bundle []byte, subject digest.Digest, _ string) (evidence.Statement, error) {
	return o.Verify(bundle, subject, "", "")
}

// NewPacker packs what lies in a directory, with the verifiers of this library.
func NewPacker(root, familyFile, dist, public string, layout graph.Store) pipeline.Packer {
	return packer{root: root, familyFile: familyFile, dist: dist, public: public, loopback: true, layout: layout,
		verifier: func(ctx context.Context, platform string) (string, error) {
			library, err := filepath.Abs("..")
			if err != nil {
				return "", err
			}
			cache, err := os.UserCacheDir()
			if err != nil {
				return "", err
			}
			return verifierProgram(library, platform).Build(ctx, filepath.Join(cache, "containai", "programs"), nil)
		}}
}

// The workflows of this repository, for the tests that execute them.

type (
	Workflow     = workflow
	WorkflowJob  = ciJob
	WorkflowStep = ciStep
)

func ReadWorkflow(file string) (*Workflow, error) {
	content, err := os.ReadFile(filepath.Join(workflowDir, file))
	if err != nil {
		return nil, err
	}
	return readWorkflow(file, string(content))
}

func (w *workflow) File() string { return w.file }

// Before are the jobs that a job waits for.
func (j *ciJob) Before() []string {
	switch needs := j.Needs.(type) {
	case string:
		return []string{needs}
	case []any:
		var all []string
		for _, n := range needs {
			all = append(all, n.(string))
		}
		return all
	}
	return nil
}

// OutputsOf reads $GITHUB_OUTPUT as a runner does: NAME=VALUE, or lines up to a delimiter.
func OutputsOf(content string) map[string]string {
	all := map[string]string{}
	lines := strings.Split(content, "\n")
	for i := 0; i < len(lines); i++ {
		if name, value, ok := strings.Cut(lines[i], "="); ok && !strings.Contains(lines[i], "<<") {
			all[name] = value
		}
		name, delimiter, ok := strings.Cut(lines[i], "<<")
		if !ok {
			continue
		}
		var value []string
		for i++; i < len(lines) && lines[i] != delimiter; i++ {
			value = append(value, lines[i])
		}
		all[name] = strings.Join(value, "\n")
	}
	return all
}
