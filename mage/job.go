package mage

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/sigstore"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
)

// login is a job's own at GitHub's registry, where nobody logged in.
func (w *workshop) login(base string) auth.Credential {
	host, _, _ := strings.Cut(base, "/")
	if w.env.token == "" || !w.env.onGitHub(host) {
		return auth.EmptyCredential
	}
	return auth.Credential{Username: w.env.actor, Password: w.env.token}
}

// releaseEvent says what the event that started this job asks for, and leaves it to later jobs.
func releaseEvent() command {
	return func(ctx context.Context, s *session) error {
		event, err := s.env.job.ReadEvent()
		if err != nil {
			return err
		}
		fam, err := s.family()
		if err != nil {
			return err
		}
		d, err := actions.Decide(event, fam)
		if err != nil {
			return err
		}
		if _, ok := fam.Channels[d.Channel]; !ok {
			return fault.New(fault.Invalid, "releasing to", d.Channel, "%s", fam.Meant(d.Channel))
		}
		w, p, _, err := s.openPipeline(ctx, false)
		if err != nil {
			return err
		}
		if err := w.lookUp(ctx, p, &d); err != nil {
			return err
		}
		if err := w.leave([]actions.Output{
			{Name: "channel", Value: d.Channel}, {Name: "version", Value: d.Version}, {Name: "commit", Value: d.Commit}, {Name: "tag", Value: d.Tag},
			{Name: "publish", Value: fmt.Sprint(d.Publish)}, {Name: "build", Value: fmt.Sprint(d.Build)},
		}); err != nil {
			return err
		}
		w.progress.settle()
		return w.print(d, func() string {
			return fmt.Sprintf("%s\nchannel   %s %s\ncommit    %s\n", term.Escape(d.Why), term.Escape(d.Channel), term.Escape(d.Version), d.Commit)
		})
	}
}

// lookUp finds out whether the commit was published and signed before: then it is not built again. What
// may not be built here must have been.
func (w *workshop) lookUp(ctx context.Context, p *pipeline.Pipeline, d *actions.Decision) error {
	if !d.Publish {
		return nil
	}
	archive, err := w.openArchive(d.Channel)
	if err != nil {
		return err
	}
	p.Archive = archive
	whole, err := isWhole(ctx, p, release.Source{Commit: d.Commit}, d.Channel)
	switch {
	case err != nil:
		return err
	case whole:
		d.Build = false
		d.Why += "; " + d.Tag + " is published and signed"
	case !d.Build:
		return fault.New(fault.Conflict, "releasing", d.Tag, "it was never published whole, and this event builds nothing").
			WithHint("release it from the default branch first, then run this again")
	}
	return nil
}

// isWhole reports whether a source is published, with every statement that a channel wants.
func isWhole(ctx context.Context, p *pipeline.Pipeline, src release.Source, channel string) (bool, error) {
	pub, found, err := p.Adopt(ctx, src)
	if err != nil || !found {
		return false, err
	}
	lacking, err := p.Unattested(ctx, pub, channel)
	return lacking == 0, err
}

// leave writes outputs for later steps and jobs, where there are any.
func (w *workshop) leave(outputs []actions.Output) error {
	if !w.env.job.Running() || w.env.job.Output == "" {
		return nil
	}
	return actions.WriteOutputs(w.env.job.Output, rand.Reader, outputs)
}

// guarded reports whether this is a job that could write where other people read. Other machines are
// held back by what they cannot sign.
func (w *workshop) guarded() bool {
	return w.env.job.Running() && (!w.loopback() || w.onGitHub())
}

// mayWrite refuses what would be applied, before anything is sent, to a job whose event is nobody's of the repository: a pull
// request, a branch beside the default one, whatever nobody thought of.
func (w *workshop) mayWrite(apply bool) error {
	if !apply || !w.guarded() {
		return nil
	}
	event, err := w.env.job.ReadEvent()
	if err != nil {
		return err
	}
	if why := event.Untrusted(); why != "" {
		return fault.New(fault.Refused, "writing to", w.client.Base().String(), "%s", why).
			WithHint("pull requests run mage release:pr, which needs no right; releases run on %s", event.Default)
	}
	return nil
}

// mayRelease is mayWrite, and who the job is: who publishes and signs must be the policy's signer, at
// the very commit; who moves the channel, one of its movers. Both are read from the identity token, as
// the variables of a job can be set by anybody. A mover that is no signer only moves what is there.
func (w *workshop) mayRelease(ctx context.Context, p *pipeline.Pipeline, x wish, src release.Source) (moves bool, err error) {
	if x.until == pipeline.UntilBuild || x.until == pipeline.UntilInspect || !w.guarded() {
		return false, nil
	}
	if err := w.mayWrite(true); err != nil {
		return false, err
	}
	policy := w.fam.Policy(x.channel)
	job, err := w.bearer(ctx, policy)
	if err != nil || policy.Instance == family.Key {
		return false, err
	}
	notSigner := job.Is(sigstore.Expect{Signer: policy.Signer, Commit: src.Commit})
	if x.until != pipeline.UntilPromote {
		return false, refuseJob(notSigner, "publishing", src.Tag())
	}
	if err := refuseJob(isMover(job, policy), "moving", x.channel); err != nil || notSigner == nil {
		return false, err
	}
	if whole, err := isWhole(ctx, p, src, x.channel); err != nil || whole {
		return true, err
	}
	return false, refuseJob(notSigner, "publishing and signing", src.Tag())
}

// mayApply is mayWrite for an operation: unless it commits unsigned, its job is a mover.
func (w *workshop) mayApply(ctx context.Context, in intent) error {
	if err := w.mayWrite(true); err != nil || !w.guarded() || in.breakglass {
		return err
	}
	policy := w.fam.Policy(in.channel)
	job, err := w.bearer(ctx, policy)
	if err != nil || policy.Instance == family.Key {
		return err
	}
	return refuseJob(isMover(job, policy), "moving", cmp.Or(in.channel, "a channel"))
}

func isMover(job sigstore.Bearer, policy family.Policy) error {
	var all []error
	for _, mover := range policy.MayMove() {
		err := job.Is(sigstore.Expect{Signer: mover})
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

func refuseJob(err error, op, subject string) error {
	if err == nil {
		return nil
	}
	return &fault.Error{Op: op, Subject: subject, Kind: fault.Refused, Err: err,
		Hint: "the family file says who may, under trust; docs/github-setup.md says which workflow that is"}
}

// bearer is who this job is, as its identity token says. What a family trusts a key with needs none.
func (w *workshop) bearer(ctx context.Context, policy family.Policy) (sigstore.Bearer, error) {
	a := readAuthorities()
	switch {
	case policy.Instance == family.Key:
		return sigstore.Bearer{}, nil
	case a.tokenURL == "" || a.token == "":
		return sigstore.Bearer{}, fault.New(fault.Environment, "identifying", "this job", "it has no right to an identity token").
			WithHint("give the job `permissions: id-token: write`; GitHub gives it to no pull request from a fork")
	}
	job, err := sigstore.ReadBearer(ctx, w.secretly(sigstore.ActionsToken(a.tokenURL, a.token)), sigstore.Options{Now: w.env.now}, w.console.Mask)
	if err != nil {
		return job, err
	}
	event, err := w.env.job.ReadEvent()
	if err == nil && (job.Event != event.Name || job.Ref != event.Ref) {
		err = refuseJob(fmt.Errorf("its variables speak of %s on %s, its identity token of %s on %s", event.Name, event.Ref, job.Event, job.Ref), "identifying", "this job")
	}
	return job, err
}
