package sigstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

func TestADirectoryHasOneInstanceAtATimeAndKeepsItsRoot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sigstore")
	first, err := StartLocal(t.Context(), helperPath(t), dir, widget)
	if err != nil {
		t.Fatal(err)
	}
	st := statementAbout(t, 1, evidence.Signature, struct{}{})
	b, err := newSigner(t, first).Sign(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	_, err = StartLocal(t.Context(), helperPath(t), dir, widget)
	if !errors.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("a second instance: %v with hint %q, want Conflict and a hint", err, fault.HintOf(err))
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	second, err := StartLocal(t.Context(), helperPath(t), dir, widget)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("second start: %v", time.Since(began).Round(time.Millisecond))
	defer second.Close()
	if _, err := trustOf(t, second).Verify(b.JSON, st.About(), widgetExpect()); err != nil {
		t.Errorf("the first run's bundle: %v", err)
	}
}

func TestStartLocalSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	nobody := widget
	nobody.Repository = "acme/widget"
	for name, c := range map[string]struct {
		helper string
		claims Claims
		want   fault.Kind
	}{
		"claims that name no repository":  {helperPath(t), nobody, fault.Invalid},
		"a claims file that is not there": {helperPath(t), Claims{FileUnsafe: "absent.json"}, fault.Invalid},
		"a helper that is not installed":  {"no-such-helper", widget, fault.Environment},
		"a program that is no helper":     {"true", widget, fault.Environment},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := StartLocal(t.Context(), c.helper, t.TempDir(), c.claims); !errors.Is(err, c.want) {
				t.Errorf("StartLocal = %v, want %v", err, c.want)
			}
		})
	}
}

func TestAStartThatHangsEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := StartLocal(ctx, silent, dir, widget); !errors.Is(err, fault.Interrupted) {
		t.Errorf("StartLocal = %v, want Interrupted", err)
	}
}
