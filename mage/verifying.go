package mage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/ref"
	"github.com/containai/containai/mage/verify"
)

// verifyChannelAfter checks everything a channel serves, and with a reason accepts an older document
// than was seen before. What it accepts is what the next run will have seen.
func verifyChannelAfter(name, rollback string) command {
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
		if err := memory.Remember(from, result.Seen()); err != nil {
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
		name, at := member(reference)
		v, _, err := s.verifier(ctx, at)
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
		now, err := sboms(ctx, w, reference)
		if err != nil {
			return err
		}
		if against == "" {
			shown := shownSBOM{now.documents, now.result.Reports()}
			return s.print(shown, func() string {
				return verifiedText(now.result) + componentsText(now.components) + findingsText(now.result.Reports())
			})
		}
		before, err := sboms(ctx, w, against)
		if err != nil {
			return err
		}
		changes := map[string][]verify.Change{}
		for _, platform := range slices.Concat(slices.Collect(maps.Keys(before.components)), slices.Collect(maps.Keys(now.components))) {
			changes[platform] = verify.Compare(before.components[platform], now.components[platform])
		}
		return s.print(changes, func() string { return changesText(against, reference, changes) })
	}
}

// shownSBOM is the JSON form: CycloneDX documents by platform, and the scans that were attested.
type shownSBOM struct {
	Documents map[string]json.RawMessage `json:"documents"`
	Scans     []evidence.Report          `json:"scans"`
}

// listed is a verified image with its SBOMs, by platform.
type listed struct {
	result     verify.Result
	documents  map[string]json.RawMessage
	components map[string][]verify.Component
}

func sboms(ctx context.Context, w *workshop, reference string) (listed, error) {
	name, at := member(reference)
	v, err := w.verifier(at)
	if err != nil {
		return listed{}, err
	}
	result, documents, err := v.SBOM(ctx, name, at, w.env.now())
	l := listed{result, map[string]json.RawMessage{}, map[string][]verify.Component{}}
	for platform, content := range documents {
		l.documents[platform] = content
		var components []verify.Component
		if err == nil {
			components, err = verify.Components(content)
		}
		l.components[platform] = components
	}
	return l, err
}

// findingsText tells what the attested scans found: when the image was released, by the database of
// that day. A newer database has to scan the image anew.
func findingsText(reports []evidence.Report) string {
	var out strings.Builder
	if len(reports) == 0 {
		out.WriteString("\nno scan was attested: whether there are findings is not known\n")
	}
	for _, r := range reports {
		coverage := "vulnerabilities by the database " + r.Database
		if r.Vulnerabilities != evidence.Scanned {
			coverage = "vulnerabilities NOT SCANNED: " + r.Reason
		}
		table := term.Table{Head: []string{"severity", "finding", "package", "version", "fixed in"}}
		for _, f := range r.Findings {
			table.Rows = append(table.Rows, []string{f.Severity, f.ID, cmp.Or(f.Package, f.Path), f.Version, f.FixedIn})
		}
		fmt.Fprintf(&out, "\n%s: %d findings when it was released; secrets, and %s\n%s", term.Escape(r.Cell.Platform), len(r.Findings), term.Escape(coverage), table)
	}
	return out.String()
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
		return s.print(results, func() string { return resultsText(results) })
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

func resultsText(results []verify.Result) string {
	var out strings.Builder
	for _, r := range results {
		out.WriteString(verifiedText(r))
	}
	return out.String()
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
	v, err := w.verifier(channel)
	return v, w, err
}

// verifier judges by the policy of a channel; any other name gives the family's own.
func (w *workshop) verifier(channel string) (*verify.Verifier, error) {
	repositories, err := newRegistryPort(w.client, w.fam.Members())
	if err != nil {
		return nil, err
	}
	a := readAuthorities()
	policy := a.policy(w.fam, channel, w.loopback())
	trust, err := a.trust(policy, w.localRoot())
	if err != nil {
		return nil, err
	}
	elsewhere, err := a.elsewhere(policy)
	return &verify.Verifier{Family: w.fam, Registry: repositories, Trust: trust, Policy: policy, Elsewhere: elsewhere}, err
}

func (s *session) printVerified(r verify.Result) error {
	return s.print(r, func() string { return verifiedText(r) })
}

// member takes "[host/owner/]name[:tag|@digest]" apart; without a tag it is dev.
func member(reference string) (name, at string) {
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

func componentsText(platforms map[string][]verify.Component) string {
	var out strings.Builder
	for _, platform := range slices.Sorted(maps.Keys(platforms)) {
		table := term.Table{Head: []string{"component", "version", "type", "licences"}}
		for _, c := range platforms[platform] {
			table.Rows = append(table.Rows, []string{c.Name, c.Version, c.Type, strings.Join(c.Licences, ", ")})
		}
		fmt.Fprintf(&out, "\n%s: %d components\n%s", platform, len(platforms[platform]), table)
	}
	return out.String()
}

func changesText(before, after string, platforms map[string][]verify.Change) string {
	var out strings.Builder
	for _, platform := range slices.Sorted(maps.Keys(platforms)) {
		table := term.Table{Head: []string{"component", "type", before, after}}
		for _, c := range platforms[platform] {
			table.Rows = append(table.Rows, []string{c.Name, c.Type, c.Before, c.After})
		}
		fmt.Fprintf(&out, "\n%s: %d changes\n%s", platform, len(platforms[platform]), table)
	}
	return out.String()
}
