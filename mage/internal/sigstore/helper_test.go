package sigstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
)

const (
	widgetRepository = "https://github.com/acme/widget"
	widgetCommit     = "0123456789abcdef0123456789abcdef01234567"
)

var widget = Claims{Repository: widgetRepository, Ref: "refs/heads/main", Commit: widgetCommit, Workflow: "containai.yaml"}

// widgetExpect is what a consumer of the widget's local releases expects.
func widgetExpect() Expect {
	return Expect{Commit: widgetCommit, Signer: family.Signer{
		Issuer: LocalIssuer, Builder: LocalBuilder, Repository: widgetRepository, Ref: "refs/heads/main", Runner: "local",
	}}
}

// scratch is the helper's binary, built once for all tests, and removed after them.
var scratch struct {
	build sync.Once
	dir   string
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if scratch.dir != "" {
		_ = os.RemoveAll(scratch.dir)
	}
	os.Exit(code)
}

// helperPath builds the real helper from its nested module.
func helperPath(tb testing.TB) string {
	tb.Helper()
	scratch.build.Do(func() {
		if scratch.dir, scratch.err = os.MkdirTemp("", "sigstore-local-"); scratch.err != nil {
			return
		}
		build := exec.Command("go", "build", "-o", filepath.Join(scratch.dir, "sigstore-local"), ".")
		build.Dir = filepath.Join("..", "..", "sigstore-local")
		build.Env = append(os.Environ(), "GOWORK=off")
		if out, err := build.CombinedOutput(); err != nil {
			scratch.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if errors.Is(scratch.err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		tb.Skip("the go command is not installed: the helper cannot be built")
	}
	if scratch.err != nil {
		tb.Fatalf("building the helper: %v", scratch.err)
	}
	return filepath.Join(scratch.dir, "sigstore-local")
}

// startLocal runs a Sigstore of its own for a test.
func startLocal(tb testing.TB, claims Claims) *Local {
	tb.Helper()
	l, err := StartLocal(context.Background(), helperPath(tb), filepath.Join(tb.TempDir(), "sigstore"), claims)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

func newSigner(tb testing.TB, l *Local) *Signer {
	tb.Helper()
	s, err := NewSigner(tb.Context(), l.Services, Options{Attempts: 2, Pause: time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func trustOf(tb testing.TB, l *Local) *Trust {
	tb.Helper()
	content, err := os.ReadFile(l.Services.TrustedRoot)
	if err != nil {
		tb.Fatal(err)
	}
	return parseTrust(tb, content)
}

func parseTrust(tb testing.TB, content []byte) *Trust {
	tb.Helper()
	trust, err := ParseTrust(family.Local, content)
	if err != nil {
		tb.Fatal(err)
	}
	return trust
}

// statementAbout makes a statement about the n-th of many subjects.
func statementAbout(tb testing.TB, n int, predicateType string, predicate any) evidence.Statement {
	tb.Helper()
	st, err := evidence.NewStatement("widget", digest.FromString(fmt.Sprint("widget ", n)), predicateType, predicate)
	if err != nil {
		tb.Fatal(err)
	}
	return st
}
