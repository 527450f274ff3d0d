package mage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/registry"
	"github.com/containai/containai/mage/pipeline"
)

// Who cannot sign is told who can, and how the same is done without; the status stays.
func TestWhoCannotSignIsToldHowToGoOn(t *testing.T) {
	stranger := fault.Wrap(fmt.Errorf("%w: %w: %w", pipeline.ErrUnsigned, pipeline.ErrNotMover,
		fault.New(fault.Environment, "signing for", "ghcr.io/o", "no identity").WithHint("release from GitHub Actions")), fault.Environment, "signing", "16")
	down := fault.Wrap(fmt.Errorf("%w: %w", pipeline.ErrUnsigned,
		fault.New(fault.Unavailable, "asking", "fulcio", "no answer").WithHint("rerun")), fault.Unavailable, "signing", "16")
	elsewhere := fault.New(fault.Unavailable, "reading", "registry", "no answer").WithHint("rerun")
	reason, prod := "it's bad", "prod"
	rollback := ask(rollbackCommand, &prod, nil, &reason, nil, nil).emergency(nil, nil)
	yes := true
	for name, c := range map[string]struct {
		registry string
		err      error
		in       intent
		kind     fault.Kind
		says     string
		hint     string
	}{
		"no mover rolls back": {"ghcr.io/o", stranger, rollback, fault.Environment, "it may be signed by https://github.com/containai/",
			`gh workflow run rollback.yml -f channel=prod -f reason='it'\''s bad'`},
		"no mover reconciles":   {"ghcr.io/o", stranger, ask("mage ops:reconcile", nil, nil, nil, nil, nil), fault.Environment, "it may be signed by https://github.com/containai/", "release from GitHub Actions"},
		"nobody can sign":       {"ghcr.io/o", down, rollback, fault.Unavailable, "no answer", `mage ops:rollback -channel=prod -reason='it'\''s bad' -breakglass -apply`},
		"nor with -breakglass":  {"ghcr.io/o", down, rollback.emergency(nil, &yes), fault.Unavailable, "no answer", "rerun"},
		"nobody can promote":    {"ghcr.io/o", down, ask("mage ops:promote", nil, &prod, nil, nil, nil), fault.Unavailable, "no answer", "rerun"},
		"the registry is down":  {"ghcr.io/o", elsewhere, rollback, fault.Unavailable, "no answer", "rerun"},
		"on this machine alone": {"127.0.0.1:1/o", stranger, rollback, fault.Environment, "no identity", "release from GitHub Actions"},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := registry.New(c.registry, registry.Options{Cache: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			w := &workshop{fam: containaiFamily(t), client: client}
			got := w.wayOut(c.err, c.in)
			kind, _ := fault.KindOf(got)
			if kind != c.kind || !strings.Contains(got.Error(), c.says) || !strings.HasSuffix(fault.HintOf(got), c.hint) {
				t.Errorf("%d %v\n→ %s\nwant %d, %q and the hint %q", kind, got, fault.HintOf(got), c.kind, c.says, c.hint)
			}
		})
	}
	if err := resumeHint(fault.Wrap(context.Canceled, 0, "moving", "tags"), "applying", "ops:hold"); !errors.Is(err, fault.Interrupted) || fault.HintOf(err) == "" {
		t.Errorf("an interruption says nothing of how to go on: %v", err)
	}
}
