package mage

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/verify"
)

// verifyChannel checks everything a channel serves, and with a reason accepts an older document
// than was seen before. What it accepts is what the next run will have seen.
func verifyChannel(name, rollback string) command {
	return func(ctx context.Context, s *session) error {
		v, w, err := s.verifier(ctx, name)
		if err != nil {
			return err
		}
		memory := verify.Memory{Path: filepath.Join(w.state.Dir(), seenFile)}
		from := w.seenAs()
		if v.Seen, err = memory.Recall(from); err != nil {
			return err
		}
		v.RollbackUnsafe = rollback
		result, err := v.Channel(ctx, name, s.env.now())
		if err != nil {
			return err
		}
		if err := memory.Remember(from, v.Seen, result.Seen()); err != nil {
			return err
		}
		return s.printVerified(result)
	}
}

// seenFile is what the state directory remembers of channels documents.
const seenFile = "seen.json"

// seenAs names a registry and family in that file. The embedded registry's port changes.
func (w *workshop) seenAs() string {
	if w.embedded {
		return "embedded/" + w.fam.Name
	}
	return w.public + "/" + w.fam.Name
}

// verifyImage checks one image. A tag that is a channel's name promises what that channel demands.
func verifyImage(reference string) command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		v, name, at, err := w.imageVerifier(ctx, reference)
		if err != nil {
			return err
		}
		result, err := v.Image(ctx, name, at, s.env.now())
		if err != nil {
			return err
		}
		return s.printVerified(result)
	}
}

// verifySBOM checks an image's SBOMs and prints their components and what was found in them when they
// were released; or what changed since another reference, which is verified, too.
func verifySBOM(reference, against string) command {
	return func(ctx context.Context, s *session) error {
		w, err := s.openWorkshop(ctx, false)
		if err != nil {
			return err
		}
		now, err := w.sboms(ctx, reference)
		if err != nil {
			return err
		}
		if against == "" {
			return s.print(now, now.String)
		}
		before, err := w.sboms(ctx, against)
		if err != nil {
			return err
		}
		changes := now.Since(before)
		return s.print(changes, func() string { return verify.ChangesText(against, reference, changes) })
	}
}

// sboms judges an image by the policy of the channel that its tag names.
func (w *workshop) sboms(ctx context.Context, reference string) (verify.SBOMs, error) {
	v, _, _, err := w.imageVerifier(ctx, reference)
	if err != nil {
		return verify.SBOMs{}, err
	}
	return v.SBOMs(ctx, reference, w.env.now())
}

// imageVerifier takes an image's reference apart and opens what verifies it.
func (w *workshop) imageVerifier(ctx context.Context, reference string) (v *verify.Verifier, name, at string, err error) {
	name, at = verify.SplitReference(reference)
	if err = verify.KnownImage(w.fam, name); err == nil {
		v, err = w.verifier(ctx, at)
	}
	return v, name, at, err
}

// verifyExport writes the evidence file of a channel, or of all.
func verifyExport(channel, out string) command {
	return func(ctx context.Context, s *session) error {
		v, _, err := s.verifier(ctx, channel)
		if err != nil {
			return err
		}
		var channels []string
		if channel != "" {
			channels = []string{channel}
		}
		f, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".*")
		if err != nil {
			return fault.Wrap(err, fault.Environment, "writing", out)
		}
		defer os.Remove(f.Name())
		err = verify.Export(ctx, f, v.Family, v.Registry, channels...)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := os.Rename(f.Name(), out); err != nil {
			return fault.Wrap(err, fault.Environment, "writing", out)
		}
		return s.print(map[string]string{"file": out}, func() string { return out + "\n" })
	}
}

// verifyOffline verifies the channels of an evidence file, each by its own policy: without network,
// and with nothing remembered from before.
func verifyOffline(file string) command {
	return func(ctx context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return fault.Wrap(err, fault.Environment, "reading", file)
		}
		defer f.Close()
		opened, err := verify.OpenFile(f)
		if err != nil {
			return err
		}
		v := &verify.Verifier{Family: fam, Registry: opened}
		channels, err := v.Offered(ctx)
		if err != nil {
			return err
		}
		var results []verify.Result
		for _, channel := range channels {
			result, err := s.offline(ctx, v, channel)
			if err != nil {
				return err
			}
			results = append(results, result)
		}
		return s.print(results, func() string { return verify.ResultsText(results) })
	}
}

func (s *session) offline(ctx context.Context, v *verify.Verifier, channel string) (verify.Result, error) {
	a := readAuthorities()
	v.Policy = a.policy(v.Family, channel, onLoopback(s.env.registry))
	trust, err := a.trust(v.Policy, filepath.Join(s.env.state, "sigstore", "trusted_root.json"))
	if err != nil {
		return verify.Result{}, err
	}
	v.Trust = trust
	return v.Channel(ctx, channel, s.env.now())
}

// onLoopback reports whether releases go to a registry of this machine; none named is the embedded.
func onLoopback(registry string) bool {
	repo, err := ref.ParseRepo(registry)
	return registry == "" || err == nil && repo.Loopback()
}

// verifier opens what verification needs.
func (s *session) verifier(ctx context.Context, channel string) (*verify.Verifier, *workshop, error) {
	w, err := s.openWorkshop(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	v, err := w.verifier(ctx, channel)
	return v, w, err
}

// verifier judges by the policy of a channel; any other name gives the family's own.
func (w *workshop) verifier(ctx context.Context, channel string) (*verify.Verifier, error) {
	repositories, err := verify.Connect(w.client, w.fam.Members())
	if err != nil {
		return nil, err
	}
	a := readAuthorities()
	policy := a.policy(w.fam, channel, w.loopback())
	v := &verify.Verifier{Family: w.fam, Registry: repositories, Policy: policy}
	if v.Trust, err = a.trust(policy, w.localRoot()); err != nil {
		return nil, w.beforeFirst(ctx, v, channel, err)
	}
	v.Elsewhere, err = a.elsewhere(policy)
	return v, err
}

// beforeFirst tells a machine that released nothing yet so: that it has no trusted root is because of it.
func (w *workshop) beforeFirst(ctx context.Context, v *verify.Verifier, channel string, missing error) error {
	if _, known := w.fam.Channels[channel]; !known || !w.embedded {
		return missing
	}
	if _, err := v.Channel(ctx, channel, w.env.now()); errors.Is(err, fault.Unverified) {
		return err
	}
	return missing
}

func (s *session) printVerified(r verify.Result) error {
	return s.print(r, r.String)
}
