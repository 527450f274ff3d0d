package sigstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
)

// Bearer is who an identity token says its bearer is. Nothing is proved by it before a certificate
// authority has checked the token's signature: a bearer that is refused saves the way there, and one
// that is accepted has yet to sign.
type Bearer struct {
	evidence.Identity
	Event string // what started the run: push, workflow_dispatch; empty for local tokens
}

// ReadBearer asks for a job's identity token, again when the issuer fails, and reads it. Tokens are
// handed to hide as soon as they are there.
func ReadBearer(ctx context.Context, token func(context.Context) (string, error), o Options, hide func(secret string)) (Bearer, error) {
	var b Bearer
	err := o.withDefaults().attempt(ctx, "reading", "OIDC token", func() error {
		text, err := token(ctx)
		if err != nil {
			return err
		}
		hide(text)
		c, err := claimsOfToken(text)
		if err == nil {
			b.Identity, err = c.identity()
		}
		b.Event = c.EventName
		return fault.Wrap(err, fault.Environment, "reading", "OIDC token")
	})
	return b, err
}

// Is compares a bearer with the signer that is wanted, as a consumer will compare the certificate.
func (b Bearer) Is(want Expect) error {
	var nameless error
	if b.Issuer == GitHubIssuer && b.RepositoryID == "" {
		nameless = errors.New("it names no repository id")
	}
	if err := errors.Join(nameless, agree(signerFacts(b.Identity, want))); err != nil {
		return fmt.Errorf("the job's identity token is another's: %w", err)
	}
	return nil
}
