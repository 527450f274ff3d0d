package mage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/local"
)

// localServe runs the embedded registry until it is interrupted.
func localServe(addr *string) command {
	return func(ctx context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		state, err := local.OpenState(s.env.state)
		if err != nil {
			return err
		}
		at := local.DefaultAddr
		if addr != nil {
			at = *addr
		}
		serving, err := local.Serve(ctx, state, at)
		if err != nil {
			return err
		}
		s.onClose(serving.Close)
		fmt.Fprintf(s.env.stdout, "registry: %s\n", serving.Host)
		fmt.Fprintf(s.env.stderr, "serving %s/%s until interrupted; trust root: %s\n", serving.Host, fam.Name, filepath.Join(state.SigstoreDir(), "trusted_root.json"))
		if err := serving.Wait(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	}
}

// localReset forgets everything the embedded default keeps.
func localReset() command {
	return func(ctx context.Context, s *session) error {
		if _, err := os.Stat(s.env.state); os.IsNotExist(err) {
			return nil
		}
		state, err := local.OpenState(s.env.state)
		if err != nil {
			return err
		}
		if err := state.Lock(); err != nil {
			return err
		}
		defer state.Close()
		if err := os.RemoveAll(s.env.state); err != nil {
			return fault.Wrap(err, fault.Environment, "removing", s.env.state)
		}
		fmt.Fprintf(s.env.stderr, "forgot %s\n", s.env.state)
		return nil
	}
}

// familyCheck validates the family file.
func familyCheck() command {
	return func(_ context.Context, s *session) error {
		fam, err := s.family()
		if err != nil {
			return err
		}
		return s.print(fam, func() string {
			return fmt.Sprintf("%s: %d images, %d artifacts, %d channels: valid\n", filepath.Base(s.env.family), len(fam.Images), len(fam.Artifacts), len(fam.Channels))
		})
	}
}
