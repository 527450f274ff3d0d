package mage

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/verify"
)

// verifyChannel checks everything a channel serves.
func verifyChannel(name string) command {
	return func(ctx context.Context, s *session) error {
		return s.verified(ctx, func(v *verify.Verifier, _ *workshop) (verify.Result, error) {
			return v.Channel(ctx, name, s.env.now())
		})
	}
}

// verifyImage checks one image.
func verifyImage(reference string) command {
	return func(ctx context.Context, s *session) error {
		return s.verified(ctx, func(v *verify.Verifier, w *workshop) (verify.Result, error) {
			name, at := w.member(reference)
			return v.Image(ctx, name, at)
		})
	}
}

// verifySBOM checks an image's SBOMs and prints their components.
func verifySBOM(reference string) command {
	return func(ctx context.Context, s *session) error {
		v, w, err := s.verifier(ctx)
		if err != nil {
			return err
		}
		name, at := w.member(reference)
		result, documents, err := v.SBOM(ctx, name, at)
		if err != nil {
			return err
		}
		raw := map[string]json.RawMessage{}
		for platform, content := range documents {
			raw[platform] = content
		}
		return s.print(raw, func() string { return verifiedText(result) + componentsText(documents) })
	}
}

func (s *session) verifier(ctx context.Context) (*verify.Verifier, *workshop, error) {
	w, err := s.openWorkshop(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	repositories, err := newRegistryPort(w.client, w.fam.Members())
	return &verify.Verifier{Family: w.fam, Registry: repositories, Trust: &trustPort{workshop: w}}, w, err
}

func (s *session) verified(ctx context.Context, check func(*verify.Verifier, *workshop) (verify.Result, error)) error {
	v, w, err := s.verifier(ctx)
	if err != nil {
		return err
	}
	result, err := check(v, w)
	if err != nil {
		return err
	}
	return s.print(result, func() string { return verifiedText(result) })
}

// member takes "[host/owner/]name[:tag|@digest]" apart; without a tag it is dev.
func (w *workshop) member(reference string) (name, at string) {
	reference = reference[strings.LastIndex(reference, "/")+1:]
	if name, at, ok := strings.Cut(reference, "@"); ok {
		return name, at
	}
	if name, at, ok := strings.Cut(reference, ":"); ok {
		return name, at
	}
	return reference, "dev"
}

func verifiedText(r verify.Result) string {
	table := term.Table{}
	for _, c := range r.Checks {
		table.Rows = append(table.Rows, []string{"✓", c.Subject, c.What, c.Found})
	}
	return fmt.Sprintf("%s\n%s verified: %d checks, all hold (%s)\n", table, r.Subject, len(r.Checks), r.Digest)
}

func componentsText(documents map[string][]byte) string {
	var out strings.Builder
	for _, platform := range slices.Sorted(maps.Keys(documents)) {
		var sbom struct {
			Components []struct {
				Name, Version, Type string
			}
		}
		if err := json.Unmarshal(documents[platform], &sbom); err != nil {
			continue // verified above: it is what was attested, whatever it is
		}
		table := term.Table{Head: []string{"component", "version", "type"}}
		for _, c := range sbom.Components {
			table.Rows = append(table.Rows, []string{c.Name, c.Version, c.Type})
		}
		fmt.Fprintf(&out, "\n%s: %d components\n%s", platform, len(sbom.Components), table)
	}
	return out.String()
}
