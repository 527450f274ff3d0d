package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/verify"
)

func protojsonUnmarshal(content []byte, m proto.Message) error {
	return protojson.Unmarshal(content, m)
}

// TestForgedStatements: rows D1 to D5. Everything below is signed, logged and timestamped by the
// trusted instance; what is wrong is who signed, or what the statement says.
func TestForgedStatements(t *testing.T) {
	refuse(t, forgedStatements())
}

func forgedStatements() []forgery {
	return slices.Concat(missingStatements(), otherSigners(), otherSubjects(), otherPredicates(), wrongProvenance(), keptForgeries())
}

func missingStatements() []forgery {
	without := func(d family.Demand) func(*scene) { return func(s *scene) { s.without(d) } }
	return []forgery{
		{"D1", "nothing at all", fault.Unverified, verify.Missing, func(s *scene) { s.demands, s.documents = nil, []string{} }},
		{"D1", "no signature", fault.Unverified, verify.Missing, without(family.DemandSignature)},
		{"D1", "no provenance", fault.Unverified, verify.Missing, without(family.DemandProvenance)},
		{"D1", "no SBOM attestation", fault.Unverified, verify.Missing, without(family.DemandSBOM)},
		{"D1", "no scan attestation", fault.Unverified, verify.Missing, without(family.DemandScan)},
		{"D1", "no SBOM document", fault.Unverified, verify.Missing, func(s *scene) { s.documents = []string{} }},
		{"D1", "nothing but what cannot be read", fault.Forged, "", func(s *scene) {
			s.demands, s.unread = nil, []error{fault.New(fault.Forged, "reading", "x", "it has 2 layers")}
		}},
		{"D1", "a kind of subject that nothing is demanded of", fault.Invalid, "", func(s *scene) { s.subject.Kind = "gadget" }},
		{"D1", "a policy that trusts nobody", fault.Invalid, "", func(s *scene) { s.policy.Signer = family.Signer{} }},
		unfinished("issuer", func(s *family.Signer) { s.Issuer = "" }),
		unfinished("repository", func(s *family.Signer) { s.Repository = "" }),
		unfinished("ref", func(s *family.Signer) { s.Ref = "" }),
		unfinished("workflow and no builder", func(s *family.Signer) { s.Workflow = "" }),
		{"D2", "a policy of an identity and a key", fault.Invalid, "", func(s *scene) { s.policy.Signer.Key = publicPEM(newKey()) }},
		{"D4", "a subject that is no digest", fault.Invalid, "", func(s *scene) { s.subject.Digest = "latest" }},
		{"deny", "a digest that the policy denies", fault.Refused, verify.Denied, func(s *scene) {
			s.policy.Deny = []family.Denial{{Digest: s.subject.Digest, Reason: "it leaks"}}
		}},
		{"deny", "a commit that the policy denies", fault.Refused, verify.Denied, func(s *scene) {
			s.demands = nil // denied before anything is heard
			s.policy.Deny = []family.Denial{{Commit: widgetCommit, Reason: "it leaks"}}
		}},
		{"deny", "a denied commit that only the certificate names", fault.Refused, verify.Denied, func(s *scene) {
			s.subject.Commit = ""
			s.policy.Deny = []family.Denial{{Commit: widgetCommit, Reason: "it leaks"}}
		}},
	}
}

// unfinished is a policy that leaves open who may sign.
func unfinished(what string, change func(*family.Signer)) forgery {
	return forgery{"D2", "a policy with no " + what, fault.Invalid, "", func(s *scene) { change(&s.policy.Signer) }}
}

// otherSigners is row D2: a valid signature, by somebody else. Each differs in one fact alone.
func otherSigners() []forgery {
	signer := func(name string, change func(*who)) forgery {
		return forgery{"D2", name, fault.Forged, sigstore.WrongIdentity, func(s *scene) { s.signedBy(change) }}
	}
	return []forgery{
		signer("another issuer", func(w *who) { w.issuer = "https://token.actions.evil.example" }),
		signer("a repository with A before its name", func(w *who) { w.repository = "https://github.com/Aacme/widget" }),
		signer("a repository with A in its name", func(w *who) { w.repository = "https://github.com/acmeA/widget" }),
		signer("a repository with A after its name", func(w *who) { w.repository = "https://github.com/acme/widgetA" }),
		signer("a fork that calls the reusable workflow", func(w *who) {
			w.repository, w.workflow = "https://github.com/evil/widget", "https://github.com/evil/widget/.github/workflows/release.yml@refs/heads/main"
		}),
		signer("another repository that took the name", func(w *who) { w.repositoryID = "666" }),
		signer("another owner that took the name", func(w *who) { w.ownerID = "666" }),
		signer("a branch whose name goes on", func(w *who) { onRef(w, "refs/heads/main-evil") }),
		signer("a tag of the branch's name", func(w *who) { onRef(w, "refs/tags/main") }),
		signer("a pull request", func(w *who) { onRef(w, "refs/pull/1/merge") }),
		signer("another workflow that calls the builder", func(w *who) { w.workflow = widgetRepository + "/.github/workflows/evil.yml@refs/heads/main" }),
		signer("another builder", func(w *who) {
			w.subject, w.signer = builder("evil.yml", "refs/heads/main"), builder("evil.yml", "refs/heads/main")
		}),
		signer("the builder of another ref", func(w *who) {
			w.subject, w.signer = builder("release.yml", "refs/heads/evil"), builder("release.yml", "refs/heads/evil")
		}),
		signer("a certificate that names two builders", func(w *who) { w.signer = builder("evil.yml", "refs/heads/main") }),
		signer("a certificate that names a person beside the builder", func(w *who) { w.email = "eve@evil.example" }),
		signer("a certificate that names nobody", func(w *who) { w.subject = ""; w.email = "eve@evil.example" }),
		signer("a certificate that names its builder twice", func(w *who) { w.twice = true }),
		signer("a runner of their own", func(w *who) { w.runner = "self-hosted" }),
		signer("a subject claim of another repository", func(w *who) { w.sub = "repo:evil/widget:ref:refs/heads/main" }),
		signer("a subject claim of a repository that took the name", func(w *who) { w.sub = "repo:acme@77/widget@666:ref:refs/heads/main" }),
		signer("a subject claim of an owner that took the name", func(w *who) { w.sub = "repo:acme@666/widget@4242:ref:refs/heads/main" }),
		signer("ids that nothing proves", func(w *who) { w.repositoryID, w.ownerID = "", "" }),
		signer("another commit", func(w *who) { w.commit = strings.Repeat("f", 40) }),
		{"D2", "a tag that only begins like the pattern", fault.Forged, sigstore.WrongIdentity, func(s *scene) {
			s.policy.Signer.Ref = "refs/tags/v*"
			s.signedBy(func(w *who) { onRef(w, "refs/tags/v1/evil") })
		}},
		{"D2", "a repository is not a pattern", fault.Forged, sigstore.WrongIdentity, func(s *scene) {
			s.policy.Signer.Builder, s.policy.Signer.Repository = family.Pattern(builder("release.yml", "refs/heads/*")), "https://github.com/acme/*"
		}},
		{"D2", "a workflow is not a pattern", fault.Forged, sigstore.WrongIdentity, func(s *scene) {
			s.policy.Signer.Builder, s.policy.Signer.Workflow = family.Pattern(builder("release.yml", "refs/heads/*")), ".github/workflows/*"
		}},
		{"D2", "a pattern is not a regular expression", fault.Forged, sigstore.WrongIdentity, func(s *scene) { s.policy.Signer.Ref = "refs/heads/mai." }},
	}
}

func builder(file, ref string) string {
	return widgetRepository + "/.github/workflows/" + file + "@" + ref
}

func onRef(w *who, ref string) {
	w.ref, w.workflow, w.subject, w.signer = ref, builder("release.yml", ref), builder("release.yml", ref), builder("release.yml", ref)
}

func otherSubjects() []forgery {
	other := digest.FromString("another manifest")
	statement := func(row, name string, kind fault.Kind, reason verify.Reason, old, new string) forgery {
		return forgery{row, name, kind, reason, func(s *scene) {
			old, new := strings.ReplaceAll(old, "SUBJECT", s.subject.Digest.Encoded()), strings.ReplaceAll(new, "SUBJECT", s.subject.Digest.Encoded())
			s.edited(signature, old, new)
		}}
	}
	return []forgery{
		statement("D4", "a statement about another digest", fault.Forged, sigstore.WrongSubject, "SUBJECT", other.Encoded()),
		statement("D4", "two subjects", fault.Forged, sigstore.Malformed, `"subject":[`, `"subject":[{"name":"widget","digest":{"sha256":"SUBJECT"}},`),
		statement("D4", "two subjects, the other first", fault.Forged, sigstore.Malformed, `"subject":[`, `"subject":[{"name":"evil","digest":{"sha256":"`+other.Encoded()+`"}},`),
		statement("D4", "no subject", fault.Forged, sigstore.Malformed, `"subject":[{"name":"widget","digest":{"sha256":"SUBJECT"}}]`, `"subject":[]`),
		statement("D4", "a digest in SHA-512 alone", fault.Forged, sigstore.Malformed, `"sha256":"SUBJECT"`, `"sha512":"`+strings.Repeat("SUBJECT", 2)+`"`),
		statement("D4", "a digest in SHA-512 beside", fault.Forged, sigstore.Malformed, `"sha256":"SUBJECT"`, `"sha256":"SUBJECT","sha512":"`+strings.Repeat("SUBJECT", 2)+`"`),
		statement("D4", "a digest that is none", fault.Forged, sigstore.Malformed, "SUBJECT", "SUB"),
		statement("D4", "a subject with an address beside its digest", fault.Forged, sigstore.Malformed, `"name":"widget",`, `"name":"widget","uri":"https://evil.example",`),
		statement("D4", "a subject with annotations", fault.Forged, sigstore.Malformed, `"name":"widget",`, `"name":"widget","annotations":{"a":"b"},`),
		statement("D4", "a statement of version 0.1", fault.Forged, sigstore.Malformed, "Statement/v1", "Statement/v0.1"),
		{"D4", "a subject in SHA-512", fault.Invalid, "", func(s *scene) { s.subject.Digest = digest.SHA512.FromString("x") }},
		statement("D4", "a statement with a member of its own", fault.Forged, "", `"_type"`, `"evil":1,"_type"`),
		statement("D4", "a statement with two predicate types", fault.Forged, "", `"predicateType"`, `"predicateType":"x","predicateType"`),
		statement("D4", "a statement without predicate type", fault.Forged, sigstore.Malformed, `"predicateType":"`+evidence.Signature+`"`, `"predicateType":""`),
	}
}

func otherPredicates() []forgery {
	return []forgery{
		{"D5", "an SBOM under another predicate type", fault.Unverified, verify.Missing, func(s *scene) {
			s.edited(family.DemandSBOM, `"predicateType":"`+evidence.SBOM, `"predicateType":"`+evidence.SBOM+"/v1.4")
		}},
		{"D5", "something else under the SBOM's predicate type", fault.Forged, verify.WrongSBOM, func(s *scene) { s.sbom = `{"spdxVersion":"SPDX-2.3","packages":[]}` }},
		{"D5", "an SBOM of a version that we do not know", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.sbom = strings.Replace(s.sbom, `"1.6"`, `"9.0"`, 1)
			s.report.SBOM = digest.FromString(s.sbom)
		}},
		{"D5", "an SBOM of another image", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.sbom = sbomOf(digest.FromString("another"), "1.0")
			s.report.SBOM = digest.FromString(s.sbom)
		}},
		{"D5", "an SBOM that was altered after it was attested", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.documents = []string{strings.Replace(s.sbom, `"1.0"`, `"1.1"`, 1)}
			s.report.SBOM = digest.FromString(s.documents[0])
		}},
		{"D5", "an SBOM document that goes on", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.documents = []string{s.sbom + "{}"}
			s.report.SBOM = digest.FromString(s.documents[0])
		}},
		{"D5", "an SBOM that is not the one that was scanned", fault.Forged, verify.WrongSBOM, func(s *scene) { s.report.SBOM = digest.FromString("another SBOM") }},
		{"D5", "a scan of another digest", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Digest = digest.FromString("another") }},
		{"D5", "a scan of another platform", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Cell.Platform = "linux/arm64" }},
		{"D5", "a scan of another image", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Cell.Image = "gadget" }},
		{"D5", "a scan that looked for no secrets", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Secrets = evidence.NotScanned }},
		{"D5", "a scan that does not say whether it looked for vulnerabilities", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Vulnerabilities = "" }},
		{"D5", "an SBOM that describes two things, one under a name in another case", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.edited(family.DemandSBOM, `"component":{`, `"component":{"Version":"x",`)
		}},
		{"D5", "an SBOM that describes two things, one under a name with a long s", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.edited(family.DemandSBOM, `"component":{`, `"component":{"ver\u017fion":"x",`)
		}},
		{"D5", "an SBOM that describes the subject under a name in another case", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.sbom = strings.Replace(s.sbom, `"version":"sha256`, `"Version":"sha256`, 1)
			s.report.SBOM = digest.FromString(s.sbom)
		}},
		{"D5", "an SBOM whose format stands under a name in another case", fault.Forged, verify.WrongSBOM, func(s *scene) {
			s.sbom = strings.Replace(s.sbom, `"bomFormat"`, `"BomFormat"`, 1)
			s.report.SBOM = digest.FromString(s.sbom)
		}},
		{"D5", "a scan that names two digests", fault.Forged, "", func(s *scene) {
			s.edited(family.DemandScan, `"secrets":`, `"digest":"sha256:`+strings.Repeat("0", 64)+`","secrets":`)
		}},
		{"D5", "a scan that names its digest in another case", fault.Forged, verify.WrongScan, func(s *scene) {
			s.edited(family.DemandScan, `"secrets":`, `"Secrets":`)
		}},
		{"D5", "a scan of an SBOM that is no digest", fault.Forged, verify.WrongScan, func(s *scene) { s.report.SBOM = "x" }},
		{"D5", "a scan that looked for no vulnerabilities and does not say why", fault.Forged, verify.WrongScan, func(s *scene) { s.report.Vulnerabilities = evidence.NotScanned }},
		{"D5", "a scan with a member that we do not know", fault.Forged, verify.WrongScan, func(s *scene) {
			s.edited(family.DemandScan, `"secrets":`, `"waived":true,"secrets":`)
		}},
	}
}

// wrongProvenance is row D3: each contradicts the certificate that signed it in one thing.
func wrongProvenance() []forgery {
	says := func(name string, change func(*evidence.SLSA)) forgery {
		return forgery{"D3", name, fault.Forged, sigstore.WrongProvenance, func(s *scene) { change(&s.provenance) }}
	}
	member := func(name, old, new string) forgery {
		return forgery{"D3", name, fault.Forged, sigstore.WrongProvenance, func(s *scene) { s.edited(family.DemandProvenance, old, new) }}
	}
	source := func(p *evidence.SLSA) *evidence.Material { return &p.BuildDefinition.ResolvedDependencies[0] }
	workflow := func(p *evidence.SLSA) *evidence.Workflow { return &p.BuildDefinition.ExternalParameters.Workflow }
	return []forgery{
		says("another builder", func(p *evidence.SLSA) { p.RunDetails.Builder.ID = builder("evil.yml", "refs/heads/main") }),
		says("another build type", func(p *evidence.SLSA) { p.BuildDefinition.BuildType = evidence.LocalBuildType }),
		says("another repository", func(p *evidence.SLSA) { workflow(p).Repository = "https://github.com/evil/widget" }),
		says("another branch", func(p *evidence.SLSA) { workflow(p).Ref = "refs/heads/evil" }),
		says("another workflow", func(p *evidence.SLSA) { workflow(p).Path = "evil.yml" }),
		says("another source", func(p *evidence.SLSA) { source(p).URI = "git+https://github.com/evil/widget@refs/heads/main" }),
		says("another source commit", func(p *evidence.SLSA) { source(p).Digest = map[string]string{"gitCommit": strings.Repeat("f", 40)} }),
		says("another run", func(p *evidence.SLSA) { p.RunDetails.Metadata.InvocationID += "0" }),
		says("no source", func(p *evidence.SLSA) { p.BuildDefinition.ResolvedDependencies = nil }),
		member("an unknown external parameter", `"externalParameters":{`, `"externalParameters":{"debug":true,`),
		member("an input of the workflow", `"workflow":{`, `"workflow":{"inputs":{},`),
		{"D3", "a second definition in another case", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.edited(family.DemandProvenance, `"buildDefinition":`, `"BuildDefinition":{},"buildDefinition":`)
		}},
		member("an unknown member of the predicate", `"buildDefinition":`, `"evil":1,"buildDefinition":`),
		member("an unknown member of the definition", `"buildType":`, `"evil":1,"buildType":`),
		member("a builder under a name in another case", `"builder":{"id"`, `"builder":{"Id"`),
		member("an unknown member of the builder", `"builder":{`, `"builder":{"builderDependencies":[],`),
		member("an unknown member of the metadata", `"metadata":{`, `"metadata":{"by":"eve",`),
		member("an unknown member of a dependency", `"resolvedDependencies":[{`, `"resolvedDependencies":[{"downloadLocation":"https://evil.example",`),
		{"D3", "two builders, one under a name in another case", fault.Forged, sigstore.Malformed, func(s *scene) {
			s.edited(family.DemandProvenance, `"builder":{`, `"builder":{"ID":"https://evil.example",`)
		}},
		{"D3", "two builders under one name", fault.Forged, "", func(s *scene) {
			s.edited(family.DemandProvenance, `"builder":{`, `"builder":{"id":"https://evil.example",`)
		}},
		{"D3", "a predicate that is no object", fault.Forged, "", func(s *scene) {
			s.payload = func(d family.Demand, statement string) string {
				if d == family.DemandProvenance {
					statement, _, _ = strings.Cut(statement, `"predicate":`)
					statement += `"predicate":[]}`
				}
				return statement
			}
		}},
		member("an unknown member of the run", `"runDetails":{`, `"runDetails":{"byproducts":[],`),
		{"D3", "a base image that the record does not name", fault.Forged, verify.WrongDependencies, func(s *scene) {
			s.provenance.BuildDefinition.ResolvedDependencies[1].Digest = map[string]string{"sha256": strings.Repeat("0", 64)}
		}},
		{"D3", "no base image", fault.Forged, verify.WrongDependencies, func(s *scene) {
			s.provenance.BuildDefinition.ResolvedDependencies = s.provenance.BuildDefinition.ResolvedDependencies[:1]
		}},
	}
}

// TestWhatIsGenuineIsAccepted is the other half of the corpus: the same code accepts every honest
// way to sign, and is not disturbed by what strangers attach.
func TestWhatIsGenuineIsAccepted(t *testing.T) {
	old := logged{old: true, integrated: now}
	for name, change := range map[string]func(*scene){
		"an entry of Rekor v2": func(*scene) {},
		"an entry of Rekor v1": func(s *scene) { s.every(func(o *order) { o.at, o.logs = now, []logged{old} }) },
		"an entry of each":     func(s *scene) { s.every(func(o *order) { o.at, o.logs = now, []logged{{}, old} }) },
		"GitHub's own instance, without any log": func(s *scene) {
			s.every(func(o *order) { o.noSCT, o.logs = true, []logged{{absent: true}} })
			s.gitHubsInstance()
		},
		"a subject claim of the older form":   func(s *scene) { s.signedBy(func(w *who) { w.sub = "repo:acme/widget:ref:refs/heads/main" }) },
		"a subject claim of the newer form":   func(s *scene) { s.signedBy(func(w *who) { w.sub = "repo:acme@77/widget@4242:environment:prod" }) },
		"a subject claim that was customized": func(s *scene) { s.signedBy(func(w *who) { w.sub = "repository_visibility:public" }) },
		"ids that only the subject claim names": func(s *scene) {
			s.signedBy(func(w *who) {
				w.repositoryID, w.ownerID, w.sub = "", "", "repo:acme@77/widget@4242:ref:refs/heads/main"
			})
		},
		"a branch that the pattern allows": func(s *scene) { s.policy.Signer.Ref = "refs/heads/*" },
		"a reusable builder at a tag": func(s *scene) {
			s.policy.Signer.Builder = "https://github.com/builders/oci/.github/workflows/build.yml@refs/tags/v*"
			s.signedBy(func(w *who) {
				w.signer, w.subject = "https://github.com/builders/oci/.github/workflows/build.yml@refs/tags/v2.1.0", "https://github.com/builders/oci/.github/workflows/build.yml@refs/tags/v2.1.0"
			})
		},
		"no ids in the policy, as for repositories that never were renamed": func(s *scene) { s.policy.Signer.RepositoryID, s.policy.Signer.OwnerID = "", "" },
		"a policy that demands less": func(s *scene) {
			s.policy.Require = map[family.SubjectKind][]family.Demand{family.PlatformManifest: {family.DemandSignature}}
			s.demands = []family.Demand{family.DemandSignature}
		},
		"a stranger's bundle beside ours": func(s *scene) {
			s.extra = []string{"{}", string(theirs().mint(order{payload: []byte("{}")}))}
		},
		"something unreadable beside ours": func(s *scene) { s.unread = []error{fault.New(fault.Forged, "reading", "x", "it has 2 layers")} },
		"a stranger's SBOM beside ours":    func(s *scene) { s.documents = []string{"{}", s.sbom} },
		"an age within the policy's":       func(s *scene) { s.policy.MaxAge = 61 * 60e9 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene()
			change(s)
			if r, err := s.verify(t); err != nil || len(r.Checks) == 0 {
				t.Errorf("%d checks, %v", len(r.Checks), err)
			}
		})
	}
}

func TestAResultSaysWhatWasCompared(t *testing.T) {
	r, err := newScene().verify(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []sigstore.Fact{
		{Name: "repository", Found: widgetRepository, Want: widgetRepository},
		{Name: "builder", Found: releaseWorkflow, Want: releaseWorkflow},
		{Name: "owner id", Found: "77", Want: "77"},
	} {
		same := func(f sigstore.Fact) bool { return f.Name == want.Name && f.Found == want.Found && f.Want == want.Want }
		if !slices.ContainsFunc(r.Checks[0].Compared, same) {
			t.Errorf("%+v is not among %+v", want, r.Checks[0].Compared)
		}
	}
}

func TestACancelledVerificationIsNotAnAnswer(t *testing.T) {
	s := newScene()
	trust := must(verify.ParseTrust(s.policy.Instance, s.root))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := verify.Verify(ctx, s.subject, s.evidence(), trust, s.policy, s.now); !errors.Is(err, fault.Interrupted) {
		t.Errorf("Verify = %v, want Interrupted", err)
	}
	if _, err := verify.Verify(t.Context(), s.subject, s.evidence(), nil, s.policy, s.now); !errors.Is(err, fault.Invalid) {
		t.Errorf("Verify without trust = %v, want Invalid", err)
	}
}

// Row D13: a root that was read by the rules of one instance does not judge for another's. GitHub's
// own demand no log: by them a signature in no log would pass a policy of the public instance.
func TestD13APolicyIsJudgedByItsOwnInstance(t *testing.T) {
	roots := map[family.Instance][]byte{family.Public: ours().trustedRoot, family.GitHub: ours().withoutLogs, family.Local: ours().trustedRoot, family.Key: nil}
	for instance, root := range roots {
		for asked := range roots {
			s := newScene()
			s.policy.Instance = asked
			if asked == family.Key {
				s.policy.Signer = family.Signer{Key: publicPEM(newKey())}
			}
			_, err := verify.Verify(t.Context(), s.subject, s.evidence(), must(verify.ParseTrust(instance, root)), s.policy, s.now)
			if kind, _ := fault.KindOf(err); (kind == fault.Invalid) != (asked != instance) {
				t.Errorf("a policy of %q by a root of %q: %v", asked, instance, err)
			}
		}
	}
}

// FuzzVerify: whatever bytes are accepted as a bundle carry the signed statement.
func FuzzVerify(f *testing.F) {
	s := newScene()
	s.policy.Require = map[family.SubjectKind][]family.Demand{family.PlatformManifest: {family.DemandSignature}}
	e := s.evidence()
	trust := must(verify.ParseTrust(s.policy.Instance, s.root))
	f.Add(e.Bundles[0])
	f.Add([]byte(`{"mediaType":"` + evidence.BundleType + `","verificationMaterial":{"certificate":{}},"dsseEnvelope":{}}`))
	f.Fuzz(func(t *testing.T, bundle []byte) {
		r, err := verify.Verify(t.Context(), s.subject, verify.Evidence{Bundles: [][]byte{bundle}}, trust, s.policy, s.now)
		if kind, _ := fault.KindOf(err); err != nil && kind != fault.Forged && kind != fault.Unverified {
			t.Errorf("an error of another kind: %v", err)
		}
		var b struct{ DsseEnvelope struct{ Payload []byte } }
		if err == nil && (len(r.Checks) != 1 || json.Unmarshal(bundle, &b) != nil) {
			t.Errorf("accepted %q with %d checks", bundle, len(r.Checks))
		}
	})
}
