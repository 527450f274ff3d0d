package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/verify"
)

// channel verifies everything a channel serves, and remembers its document.
func (q *question) channel(ctx context.Context) error {
	v, err := q.online(q.args[0])
	if err != nil {
		return err
	}
	var result verify.Result
	err = q.remembering(v, func() (verify.Result, error) {
		result, err = v.Channel(ctx, q.args[0], q.now)
		return result, err
	})
	if err != nil {
		return err
	}
	return q.print(result, result.String)
}

func (q *question) image(ctx context.Context) error {
	name, at := verify.SplitReference(q.args[0])
	v, err := q.online(at)
	if err != nil {
		return err
	}
	result, err := v.Image(ctx, name, at, q.now)
	if err != nil {
		return err
	}
	return q.print(result, result.String)
}

func (q *question) sbom(ctx context.Context) error {
	now, err := q.sboms(ctx, q.args[0])
	if err != nil {
		return err
	}
	if q.against == "" {
		return q.print(now, now.String)
	}
	before, err := q.sboms(ctx, q.against)
	if err != nil {
		return err
	}
	changes := now.Since(before)
	return q.print(changes, func() string { return verify.ChangesText(q.against, q.args[0], changes) })
}

func (q *question) sboms(ctx context.Context, reference string) (verify.SBOMs, error) {
	_, at := verify.SplitReference(reference)
	v, err := q.online(at)
	if err != nil {
		return verify.SBOMs{}, err
	}
	return v.SBOMs(ctx, reference, q.now)
}

// offline verifies each channel of an evidence file by its own policy; nothing is remembered.
func (q *question) offline(ctx context.Context) error {
	fam, err := q.readFamily()
	if err != nil {
		return err
	}
	f, err := os.Open(q.args[0])
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", q.args[0])
	}
	defer f.Close()
	file, err := verify.OpenFile(f)
	if err != nil {
		return err
	}
	v := &verify.Verifier{Family: fam, Registry: file}
	channels, err := v.Offered(ctx)
	if err != nil {
		return err
	}
	var results []verify.Result
	for _, channel := range channels {
		if err := q.trust(v, channel); err != nil {
			return err
		}
		result, err := v.Channel(ctx, channel, q.now)
		if err != nil {
			return err
		}
		results = append(results, result)
	}
	return q.print(results, func() string { return verify.ResultsText(results) })
}

// online is a verifier of a registry, by the policy of a channel; any other name gives the family's.
// What GitHub's workflows signed is looked for at GitHub, too.
func (q *question) online(channel string) (*verify.Verifier, error) {
	fam, err := q.readFamily()
	if err != nil {
		return nil, err
	}
	if q.registry == "" {
		return nil, fault.New(fault.Invalid, "opening", "registry", "none is named").WithHint("-registry host[:port]/owner")
	}
	v := &verify.Verifier{Family: fam}
	if v.Registry, err = verify.OpenRegistry(q.registry, fam); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "opening registry", q.registry)
	}
	if err := q.trust(v, channel); err != nil {
		return nil, err
	}
	if v.Policy.Signer.Issuer == sigstore.GitHubIssuer {
		v.Elsewhere, err = verify.Attestations(q.gitHub, v.Policy.Signer.Repository)
	}
	return v, err
}

// trust reads whose signatures count for a channel, and what they are checked against.
func (q *question) trust(v *verify.Verifier, channel string) error {
	v.Policy = v.Family.Policy(channel)
	if q.policy != "" {
		content, err := read(q.policy, maxText)
		if err != nil {
			return err
		}
		brought, err := family.ParsePolicy(filepath.Base(q.policy), content)
		if err != nil {
			return err
		}
		v.Policy = instead(v.Policy, brought)
	}
	if v.Policy.Instance == family.Local {
		v.Policy.Signer, v.Policy.Movers = sigstore.LocalSigner(v.Family.Source), nil
	}
	var root []byte
	var err error
	if q.root != "" {
		if root, err = read(q.root, maxText); err != nil {
			return err
		}
	}
	v.Trust, err = verify.ParseTrust(v.Policy.Instance, root)
	return err
}

// instead puts a policy that was brought in the place of the family's. It says anew whose signatures
// count; what the family denies stays denied, and its limits and demands hold where it names none.
func instead(own, brought family.Policy) family.Policy {
	brought.Deny = slices.Concat(own.Deny, brought.Deny)
	if brought.MaxAge == 0 && brought.Instance != family.Key { // a key's signatures carry no time
		brought.MaxAge = own.MaxAge
	}
	if brought.MaxJump == family.DefaultJump {
		brought.MaxJump = own.MaxJump
	}
	require := map[family.SubjectKind][]family.Demand{}
	maps.Copy(require, own.Require)
	maps.Copy(require, brought.Require)
	brought.Require = require
	return brought
}

func (q *question) readFamily() (*family.Family, error) {
	if q.family == "" {
		return nil, fault.New(fault.Invalid, "reading", "family file", "none is named").WithHint("-family containai.yaml, of a release that you trust")
	}
	content, err := read(q.family, maxText)
	if err != nil {
		return nil, err
	}
	return family.Parse(filepath.Base(q.family), content)
}

// maxText bounds every file that is read for a question, in bytes.
const maxText = 1 << 20

func read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading", name)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(content)) > limit {
		return nil, fault.New(fault.Invalid, "reading", name, "it has more than %d bytes", limit)
	}
	return content, fault.Wrap(err, fault.Environment, "reading", name)
}

// remembering hands a verifier the newest channels document that was accepted before, and keeps the
// one that is accepted now.
func (q *question) remembering(v *verify.Verifier, ask func() (verify.Result, error)) error {
	if q.state == "" {
		return fault.New(fault.Environment, "looking for", "state directory", "there is no home directory").WithHint("-state DIR")
	}
	if err := os.MkdirAll(q.state, 0o700); err != nil {
		return fault.Wrap(err, fault.Environment, "creating", q.state)
	}
	memory, from := verify.Memory{Path: filepath.Join(q.state, "seen.json")}, fmt.Sprintf("%s/%s", q.registry, v.Family.Name)
	var err error
	if v.Seen, err = memory.Recall(from); err != nil {
		return err
	}
	v.RollbackUnsafe = q.allowRollback
	result, err := ask()
	if err != nil {
		return err
	}
	return memory.Remember(from, v.Seen, result.Seen())
}
