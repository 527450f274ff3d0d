package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

const beHelper = "SIGSTORE_LOCAL_TEST_HELPER"

// TestMain lets the test binary be the helper, so that every test meets the real program.
func TestMain(m *testing.M) {
	if os.Getenv(beHelper) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const widget = `{"repository":"https://github.com/acme/widget","ref":"refs/heads/main","commit":"0123456789abcdef0123456789abcdef01234567","workflow":"containai.yaml"}`

// helper is a running sigstore-local.
type helper struct {
	ready
	cmd   *exec.Cmd
	stdin io.Closer
}

func start(t *testing.T, dir, line string, args ...string) *helper {
	t.Helper()
	cmd, stdin, stdout := launch(t, dir, line, args...)
	h := &helper{cmd: cmd, stdin: stdin}
	told, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the helper said nothing: %v", err)
	}
	if err := json.Unmarshal(told, &h.ready); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.stop() })
	return h
}

func launch(t *testing.T, dir, line string, args ...string) (*exec.Cmd, io.WriteCloser, io.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--dir", dir}, args...)...)
	cmd.Env, cmd.Stderr = append(os.Environ(), beHelper+"=1"), os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, line+"\n"); err != nil {
		t.Fatal(err)
	}
	return cmd, stdin, stdout
}

func (h *helper) stop() error {
	_ = h.stdin.Close()
	return h.cmd.Wait()
}

// token asks for a token as a workflow does; the status is returned too.
func (h *helper) token(t *testing.T, bearer, audience string) (string, int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.TokenURL+"&audience="+audience, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "bearer "+bearer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct{ Value string }
	_ = json.NewDecoder(response.Body).Decode(&body)
	return body.Value, response.StatusCode
}

const statement = `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"` +
	`e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}],"predicateType":"https://example.com/p","predicate":{}}`

func (h *helper) sign(t *testing.T) *bundle.Bundle {
	t.Helper()
	token, _ := h.token(t, h.Token, audience)
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := sign.Bundle(&sign.DSSEData{Data: []byte(statement), PayloadType: "application/vnd.in-toto+json"}, key, sign.BundleOptions{
		Context:                    t.Context(),
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: h.Fulcio}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
		TimestampAuthorities:       []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: h.Timestamp})},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: h.Rekor, Version: 2})},
	})
	if err != nil {
		t.Fatalf("signing: %v", err)
	}
	b, err := bundle.NewBundle(signed)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// check verifies a bundle with everything demanded, and an exact identity.
func (h *helper) check(t *testing.T, b *bundle.Bundle, issuer, san string, extensions certificate.Extensions) error {
	t.Helper()
	trusted, err := root.NewTrustedRootFromPath(h.TrustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := verify.NewVerifier(trusted, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	sanMatcher, _ := verify.NewSANMatcher(san, "")
	issuerMatcher, _ := verify.NewIssuerMatcher(issuer, "")
	identity, err := verify.NewCertificateIdentity(sanMatcher, issuerMatcher, extensions)
	if err != nil {
		t.Fatal(err)
	}
	subject, _ := hex.DecodeString("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	_, err = verifier.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", subject), verify.WithCertificateIdentity(identity)))
	return err
}

var honest = certificate.Extensions{
	BuildSignerURI:         localBuilder,
	RunnerEnvironment:      "local",
	SourceRepositoryURI:    "https://github.com/acme/widget",
	SourceRepositoryRef:    "refs/heads/main",
	SourceRepositoryDigest: "0123456789abcdef0123456789abcdef01234567",
	BuildConfigURI:         "https://github.com/acme/widget/containai.yaml@refs/heads/main",
	BuildTrigger:           "local",
}

func TestASignedStatementVerifiesUnderTheLocalIdentity(t *testing.T) {
	t.Parallel()
	h := start(t, t.TempDir(), widget)
	b := h.sign(t)
	if err := h.check(t, b, localIssuer, localBuilder, honest); err != nil {
		t.Error(err)
	}
	if err := h.check(t, b, gitHubIssuer, localBuilder, honest); err == nil {
		t.Error("a local signature passes for GitHub's")
	}
}

func TestASecondStartKeepsRootAndLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir, widget)
	rootBefore, _ := os.ReadFile(first.TrustedRoot)
	b := first.sign(t)
	if err := first.stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}
	second := start(t, dir, widget)
	rootAfter, err := os.ReadFile(second.TrustedRoot)
	if err != nil || string(rootAfter) != string(rootBefore) {
		t.Errorf("the trusted root changed (%v)", err)
	}
	if first.Token == second.Token {
		t.Error("two runs share a bearer token")
	}
	if err := second.check(t, b, localIssuer, localBuilder, honest); err != nil {
		t.Errorf("the first run's bundle: %v", err)
	}
	was := b.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex()
	is := second.sign(t).GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex()
	if is <= was {
		t.Errorf("the log went from index %d to %d", was, is)
	}
}

func TestNobodyElseCanHaveAnythingSigned(t *testing.T) {
	t.Parallel()
	h, other := start(t, t.TempDir(), widget), start(t, t.TempDir(), widget)
	for _, bearer := range []string{"", "wrong", other.Token} {
		if token, status := h.token(t, bearer, audience); status != http.StatusUnauthorized || token != "" {
			t.Errorf("bearer %q got status %d and token %q", bearer, status, token)
		}
	}
	wrongAudience, _ := h.token(t, h.Token, "somebody-else")
	otherRun, _ := other.token(t, other.Token, audience)
	for name, token := range map[string]string{"of a wrong audience": wrongAudience, "of another instance": otherRun, "that is none": "a.b.c"} {
		key, err := sign.NewEphemeralKeypair(nil)
		if err != nil {
			t.Fatal(err)
		}
		fulcio := sign.NewFulcio(&sign.FulcioOptions{BaseURL: h.Fulcio})
		if _, err := fulcio.GetCertificate(t.Context(), key, &sign.CertificateProviderOptions{IDToken: token}); err == nil {
			t.Errorf("a token %s got a certificate", name)
		}
	}
	if err := other.check(t, h.sign(t), localIssuer, localBuilder, honest); err == nil {
		t.Error("one instance's root verifies the other's bundle")
	}
}

func TestASecondInstanceOfADirectoryLeavesWithConflict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir, widget)
	cmd, stdin, _ := launch(t, dir, widget)
	defer stdin.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != exitConflict {
		t.Errorf("exit code %d, want %d", cmd.ProcessState.ExitCode(), exitConflict)
	}
}

func TestTheHelperEndsWithItsParentAndLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *helper) error{
		"standard input ends": func(h *helper) error { return h.stdin.Close() },
		"SIGTERM":             func(h *helper) error { return h.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGKILL":             func(h *helper) error { return h.cmd.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, t.TempDir(), widget)
			if err := end(h); err != nil {
				t.Fatal(err)
			}
			err := h.cmd.Wait()
			if name != "SIGKILL" && err != nil {
				t.Errorf("it left with %v", err)
			}
			for _, url := range []string{h.Fulcio, h.Rekor} {
				if conn, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), time.Second); err == nil {
					conn.Close()
					t.Errorf("%s still answers", url)
				}
			}
		})
	}
}

func TestKeysAreForTheirOwnerAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := start(t, dir, widget).stop(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"fulcio.pem", "tsa.pem", "ctlog.pem", "rekor.pem"} {
		stat, err := os.Stat(filepath.Join(dir, file))
		if err != nil || stat.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, stat.Mode(), err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "fulcio.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeys(dir); err == nil {
		t.Error("a key that others can read is used")
	}
}

func TestRehearsedClaimsGiveGitHubsCertificate(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "claims.json")
	content := `{"iss":"https://token.actions.githubusercontent.com","sub":"repo:acme/widget:ref:refs/heads/main","repository":"acme/widget","repository_id":"42",
		"repository_owner":"acme","repository_owner_id":"7","repository_visibility":"public","ref":"refs/heads/main","sha":"0123456789abcdef0123456789abcdef01234567",
		"workflow":"release","workflow_ref":"acme/widget/.github/workflows/release.yml@refs/heads/main","workflow_sha":"0123456789abcdef0123456789abcdef01234567",
		"job_workflow_ref":"acme/widget/.github/workflows/release.yml@refs/heads/main","job_workflow_sha":"0123456789abcdef0123456789abcdef01234567",
		"event_name":"push","run_id":"1001","run_attempt":"1","runner_environment":"github-hosted"}`
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, t.TempDir(), "", "--claims", file)
	workflow := "https://github.com/acme/widget/.github/workflows/release.yml@refs/heads/main"
	err := h.check(t, h.sign(t), gitHubIssuer, workflow, certificate.Extensions{
		BuildSignerURI: workflow, BuildConfigURI: workflow, RunnerEnvironment: "github-hosted",
		SourceRepositoryURI: "https://github.com/acme/widget", SourceRepositoryIdentifier: "42", SourceRepositoryOwnerIdentifier: "7",
		SourceRepositoryVisibilityAtSigning: "public", RunInvocationURI: "https://github.com/acme/widget/actions/runs/1001/attempts/1",
	})
	if err != nil {
		t.Error(err)
	}
}
