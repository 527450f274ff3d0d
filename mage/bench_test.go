package mage_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/verify"
)

// benchImages is how many images the family has, on two platforms.
const benchImages = 8

// How long anything may take is claimed in mage/cmd/bench, which `mage bench` holds it against.

// BenchmarkSignFamily signs and attaches every statement about a published family, with a Sigstore
// of this machine that is running: one certificate, and a log entry and a timestamp for each.
func BenchmarkSignFamily(b *testing.B) {
	signed := 0
	for b.Loop() {
		b.StopTimer()
		f := newSignedFamily(b, benchImages)
		f.release(b, pipeline.UntilPublish)
		b.StartTimer()
		signed = f.release(b, pipeline.UntilAttest).Attested
	}
	b.ReportMetric(float64(signed), "statements")
}

// BenchmarkStartSigstore starts the local Sigstore: the first time, which makes its keys, and the
// times after it, which find them.
func BenchmarkStartSigstore(b *testing.B) {
	helper := sigstoreHelper(b)
	for name, fresh := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			kept := filepath.Join(b.TempDir(), "sigstore")
			for b.Loop() {
				dir := kept
				if fresh {
					dir = filepath.Join(b.TempDir(), "sigstore")
				}
				l, err := sigstore.StartLocal(b.Context(), helper, dir, sigstore.Claims{
					Repository: signedSource, Ref: "refs/heads/main", Commit: "1111111111111111111111111111111111111111", Workflow: "family.yaml",
				})
				b.StopTimer()
				if err != nil || l.Close() != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkVerifyFamily verifies a channel and everything it serves from one evidence file, beside
// cosign asked about the same statements one after the other, as people script it.
func BenchmarkVerifyFamily(b *testing.B) {
	f := newSignedFamily(b, benchImages)
	f.release(b, pipeline.UntilPromote)
	var file bytes.Buffer
	if err := verify.Export(b.Context(), &file, f.fam, f.stages.Registry); err != nil {
		b.Fatal(err)
	}
	var ours time.Duration
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			f.verifyFile(b, file.Bytes())
		}
		ours = b.Elapsed() / time.Duration(b.N)
	})
	claims := f.statements(b)
	for version, c := range cosigns() {
		b.Run("cosign "+version, func(b *testing.B) {
			program := filepath.Join(install(b, c.module), "cosign")
			for b.Loop() {
				for _, claim := range claims {
					args := c.command(f.local.Services.TrustedRoot, sigstore.LocalBuilder, claim.Predicate)
					if out, err := exec.CommandContext(b.Context(), program, append(args, f.at(claim))...).CombinedOutput(); err != nil {
						b.Fatalf("%v\n%s", err, out)
					}
				}
			}
			theirs := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(len(claims)), "statements")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "times-ours")
		})
	}
}

// verifyFile reads an evidence file and verifies the channel in it, as verify:offline does.
func (f *signedFamily) verifyFile(tb testing.TB, content []byte) {
	tb.Helper()
	opened, err := verify.OpenFile(bytes.NewReader(content))
	if err != nil {
		tb.Fatal(err)
	}
	v := verify.Verifier{Family: f.fam, Registry: opened, Trust: f.trust, Policy: f.policy}
	if _, err := v.Channel(tb.Context(), "dev", time.Now()); err != nil {
		tb.Fatal(err)
	}
}
