package mage

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/tool"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/verify"
)

// authorities are the variables that say who signs and whom to trust.
type authorities struct {
	root     string // trusted_root.json; empty: the one built in, or this machine's
	services string // signing_config.json; empty: the one built in, or this machine's
	key      string // file of a private key
	password string // of the private key
	tokenURL string // where a GitHub Actions job gets its identity
	token    string // what it shows there
	gitHub   string // GitHub's API
}

func readAuthorities() authorities {
	return authorities{
		root:     variable("CONTAINAI_TRUSTED_ROOT", ""),
		services: variable("CONTAINAI_SIGNING_CONFIG", ""),
		key:      variable("CONTAINAI_SIGNING_KEY", ""),
		password: variable("CONTAINAI_SIGNING_KEY_PASSWORD", ""),
		tokenURL: variable("ACTIONS_ID_TOKEN_REQUEST_URL", ""),
		token:    variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN", ""),
		gitHub:   gitHubAPI(),
	}
}

// local reports whether releases are signed by this machine: their registry is on it, and nobody
// named another trusted root.
func (a authorities) local(p family.Policy, loopback bool) bool {
	return p.Instance == family.Local || p.Instance != family.Key && loopback && a.root == ""
}

// policy is what a channel trusts. What this machine signed is checked by the same policy, but for
// who signed it.
func (a authorities) policy(f *family.Family, channel string, loopback bool) family.Policy {
	p := f.Policy(channel)
	if a.local(p, loopback) {
		p.Instance, p.Signer, p.Movers = family.Local, sigstore.LocalSigner(f.Source), nil
	}
	return p
}

// trust reads what a policy's signatures are checked against; localRoot is this machine's.
func (a authorities) trust(p family.Policy, localRoot string) (*verify.Trust, error) {
	file := a.root
	if file == "" && p.Instance == family.Local {
		file = localRoot
	}
	content, err := readRoot(file)
	if err != nil {
		return nil, err
	}
	return verify.ParseTrust(p.Instance, content)
}

// elsewhere is where evidence may be that the registry lacks: what GitHub's own workflows sign is kept
// by GitHub as well.
func (a authorities) elsewhere(p family.Policy) (verify.Source, error) {
	if p.Signer.Issuer != sigstore.GitHubIssuer {
		return nil, nil
	}
	return verify.Attestations(a.gitHub, p.Signer.Repository)
}

// maxRoot bounds a trusted root, in bytes; the public one has 7 kB.
const maxRoot = 1 << 20

func readRoot(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: file, Kind: fault.Environment, Err: err,
			Hint: "without this trusted root nothing can be verified: what another machine signed needs that machine's, CONTAINAI_TRUSTED_ROOT=…"}
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxRoot+1))
	return content, fault.Wrap(err, fault.Environment, "reading", file)
}

func (w *workshop) localRoot() string {
	return filepath.Join(w.state.SigstoreDir(), "trusted_root.json")
}

func (w *workshop) loopback() bool { return w.client.Base().Loopback() }

// signerPort opens a signer when something has to be signed, once per run.
type signerPort struct {
	*workshop
	plan   release.Plan
	mu     sync.Mutex
	signer pipeline.Signer
}

// sigstoreEstimate is how long the helper takes to compile on a bare machine with two cores.
const sigstoreEstimate = 3 * time.Minute

func (p *signerPort) open(ctx context.Context) (pipeline.Signer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signer != nil {
		return p.signer, nil
	}
	signer, err := p.choose(ctx, readAuthorities())
	if err == nil {
		p.signer = signer
	}
	return signer, err
}

// choose picks one of the three ways to sign: a key, this machine's Sigstore, a job's identity.
func (p *signerPort) choose(ctx context.Context, a authorities) (pipeline.Signer, error) {
	switch policy := p.fam.Trust; {
	case policy.Instance == family.Key:
		return p.keySigner(a)
	case a.local(policy, p.loopback()):
		return p.localSigner(ctx)
	case a.tokenURL == "" || a.token == "":
		return nil, fault.New(fault.Environment, "signing for", p.client.Base().String(), "this machine's own signatures are for registries on it: other people cannot verify them").
			WithHint("release from GitHub Actions, in a job with `permissions: id-token: write`")
	default:
		services, err := p.services(ctx, a, policy)
		if err != nil {
			return nil, err
		}
		return sigstore.NewSigner(ctx, sigstore.Services{
			Instance: policy.Instance, TrustedRoot: a.root, SigningConfig: services, Token: p.secretly(sigstore.ActionsToken(a.tokenURL, a.token)),
		}, sigstore.Options{Now: p.env.now})
	}
}

// secretly is where a token comes from that no output shows.
func (s *session) secretly(token func(context.Context) (string, error)) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		secret, err := token(ctx)
		s.env.secrets.Learn(secret)
		return secret, err
	}
}

// services is the file that says where to sign: the one that was named, or for the public instance
// what it publishes now. Without an answer the built-in one may still do, and signing will tell.
func (p *signerPort) services(ctx context.Context, a authorities, policy family.Policy) (string, error) {
	if a.services != "" || policy.Instance != family.Public {
		return a.services, nil
	}
	path, err := sigstore.FetchSigningConfig(ctx, sigstore.Updates{Cache: filepath.Join(p.state.CacheDir(), "tuf")})
	if errors.Is(err, fault.Unavailable) {
		p.progress.Note("attest", "", "signing where this version of the library knows: "+err.Error())
		return "", nil
	}
	return path, err
}

func (p *signerPort) keySigner(a authorities) (pipeline.Signer, error) {
	content, err := os.ReadFile(a.key)
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err // without the path, which is the key itself where somebody took the variable for that
	}
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: "private key", Kind: fault.Environment, Err: err,
			Hint: "the family trusts a key: set CONTAINAI_SIGNING_KEY to its file and CONTAINAI_SIGNING_KEY_PASSWORD"}
	}
	p.env.secrets.Learn(string(content))
	src, builder := p.plan.Source, string(p.fam.Trust.Signer.Builder)
	if builder == "" || strings.Contains(builder, "*") {
		builder = sigstore.LocalBuilder
	}
	signer, err := sigstore.NewKeySigner(content, []byte(a.password), evidence.Identity{
		BuilderID: builder, BuildType: evidence.LocalBuildType, Repository: p.fam.Source, Ref: src.Ref, Commit: src.Commit,
		WorkflowPath: filepath.Base(p.env.family), InvocationID: p.env.run,
	})
	if err != nil {
		return nil, err
	}
	return signer, nil
}

// localSigner builds the helper and starts this machine's Sigstore.
func (p *signerPort) localSigner(ctx context.Context) (pipeline.Signer, error) {
	dir, err := p.sigstoreDirectory(ctx)
	if err != nil {
		return nil, err
	}
	helper, err := p.compile(ctx, "attest", tool.Program{Name: "sigstore-local", Version: "dev", Package: ".", Dir: dir, Estimate: sigstoreEstimate})
	if err != nil {
		return nil, err
	}
	src := p.plan.Source
	services, err := sigstore.StartLocal(ctx, helper, p.state.SigstoreDir(), sigstore.Claims{
		Repository: p.fam.Source, Ref: src.Ref, Commit: src.Commit, Workflow: filepath.Base(p.env.family), Dirty: src.Dirty,
	})
	if err != nil {
		return nil, err
	}
	p.onClose(services.Close)
	services.Services.Token = p.secretly(services.Services.Token)
	signer, err := sigstore.NewSigner(ctx, services.Services, sigstore.Options{Now: p.env.now})
	if err != nil {
		return nil, err
	}
	return signer, nil
}

// sigstoreDirectory is where the helper's source lies. It is a module of its own, so that it comes with a
// checkout of this library, and not with the library as a module: then Go fetches it at the same version.
func (w *workshop) sigstoreDirectory(ctx context.Context) (string, error) {
	const inside = "mage/sigstore-local"
	dir := filepath.Join(w.env.library, inside)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || w.env.version == "" {
		return dir, nil
	}
	return tool.Module(ctx, w.programs(), libraryPath+"/"+inside, w.env.version)
}

// trustPort verifies bundles for the pipeline.
type trustPort struct {
	*workshop
	enduring bool // a signature whose time is two thirds over is too old
	mu       sync.Mutex
	judges   map[string][]judge // by channel; "": of any
}

// Enduring is the same trust, for what is to be served for a while.
func (p *trustPort) Enduring() pipeline.Verifier {
	return &trustPort{workshop: p.workshop, enduring: true}
}

// judge is one signer that counts, with what its signatures are checked against and how old they may be.
type judge struct {
	trust  *verify.Trust
	signer family.Signer
	maxAge time.Duration
}

// Verify checks who signed, what about, and, of a provenance, that it says what the certificate
// proves. Before anything was signed there is no root, and so nothing verifies.
func (p *trustPort) Verify(bundle []byte, subject digest.Digest, commit, channel string) (st evidence.Statement, err error) {
	judges, err := p.open(channel)
	if err != nil {
		return st, err
	}
	for _, j := range judges {
		if st, err = p.believe(j, bundle, subject, commit); err == nil {
			return st, nil
		}
	}
	return st, err
}

// VerifyMover checks what was signed about a channels document: by one who may move the channel.
func (p *trustPort) VerifyMover(bundle []byte, subject digest.Digest, channel string) (st evidence.Statement, err error) {
	a := readAuthorities()
	policy := a.policy(p.fam, channel, p.loopback())
	trust, err := a.trust(policy, p.localRoot())
	if err != nil {
		return st, err
	}
	for _, mover := range policy.MayMove() {
		if st, err = p.believe(judge{trust: trust, signer: mover}, bundle, subject, ""); err == nil {
			return st, nil
		}
	}
	return st, err
}

func (p *trustPort) believe(j judge, bundle []byte, subject digest.Digest, commit string) (evidence.Statement, error) {
	verified, err := j.trust.Verify(bundle, subject, sigstore.Expect{Signer: j.signer, Commit: commit})
	if err != nil {
		return evidence.Statement{}, err
	}
	if verified.Statement.PredicateType == evidence.Provenance {
		err = sigstore.CheckProvenance(verified.Statement, verified.Identity)
	}
	if j.maxAge > 0 && p.env.now().Sub(verified.SignedAt) > j.maxAge {
		err = fault.New(fault.Refused, "verifying", subject.String(), "it was signed on %s, the policy takes what is at most %s old", verified.SignedAt.Format(time.DateOnly), j.maxAge)
	}
	return verified.Statement, err
}

// open lists the signers of a channel's policy, or of the family's own and of every channel that
// overrides it; movers sign documents and no evidence. What is not there yet may be after the first
// signature, so a failure is not kept.
func (p *trustPort) open(channel string) ([]judge, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if judges, ok := p.judges[channel]; ok {
		return judges, nil
	}
	a, judges := readAuthorities(), []judge(nil)
	known := map[family.Signer]bool{}
	for _, name := range p.asked(channel) {
		policy := a.policy(p.fam, name, p.loopback())
		trust, err := a.trust(policy, p.localRoot())
		if err != nil {
			return nil, err
		}
		if j := (judge{trust: trust, signer: policy.Signer}); !known[j.signer] {
			known[j.signer] = true
			if channel != "" {
				j.maxAge = policy.MaxAge
			}
			if p.enduring {
				j.maxAge = j.maxAge * 2 / 3
			}
			judges = append(judges, j)
		}
	}
	if p.judges == nil {
		p.judges = map[string][]judge{}
	}
	p.judges[channel] = judges
	return judges, nil
}

// asked are the names of the policies that a channel asks: its own, or of no channel in particular all.
func (p *trustPort) asked(channel string) []string {
	if channel != "" {
		return []string{channel}
	}
	return append([]string{""}, slices.Sorted(maps.Keys(p.fam.Channels))...)
}
