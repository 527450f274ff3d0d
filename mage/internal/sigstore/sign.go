package sigstore

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

// Options of a signer. The zero value is for production.
type Options struct {
	Attempts int              // per certificate and per statement; 0 means 4
	Pause    time.Duration    // before the second attempt, doubled before each further one; 0 means 500 ms
	Now      func() time.Time // nil means time.Now
}

func (o Options) withDefaults() Options {
	if o.Attempts == 0 {
		o.Attempts = 4
	}
	if o.Pause == 0 {
		o.Pause = 500 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Signer signs the statements of one job with one certificate. It is safe for concurrent use, and
// meant to be: a signature waits about a second for the log's next checkpoint.
type Signer struct {
	options  Options
	token    func(ctx context.Context) (string, error)
	trust    *Trust
	identity evidence.Identity

	fulcio      root.Service
	authorities []root.Service // timestamp authorities, at least one
	logs        []root.Service // transparency logs, at least one but for GitHub's own instance

	mu      sync.Mutex
	current credential
}

// NewSigner reads the services' files and gets the job's certificate.
func NewSigner(ctx context.Context, services Services, options Options) (*Signer, error) {
	s := &Signer{options: options.withDefaults(), token: services.Token}
	content, err := readConfig(services.TrustedRoot)
	if err != nil {
		return nil, err
	}
	if s.trust, err = ParseTrust(services.instance(), content); err != nil {
		return nil, err
	}
	if content, err = services.signingConfig(); err != nil {
		return nil, err
	}
	if err := s.choose(content); err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "reading", services.SigningConfig)
	}
	if _, err := s.credential(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// choose takes from a signing config the services to use now.
func (s *Signer) choose(content []byte) error {
	config, err := root.NewSigningConfigFromJSON(content)
	if err != nil {
		return err
	}
	now := s.options.Now()
	if s.fulcio, err = root.SelectService(config.FulcioCertificateAuthorityURLs(), sign.FulcioAPIVersions, now); err != nil {
		return fmt.Errorf("choosing a certificate authority: %w", err)
	}
	s.authorities, err = root.SelectServices(config.TimestampAuthorityURLs(), config.TimestampAuthorityURLsConfig(), sign.TimestampAuthorityAPIVersions, now)
	if err != nil {
		return fmt.Errorf("choosing a timestamp authority: %w", err)
	}
	if s.trust.instance == family.GitHub {
		return nil // it runs no log
	}
	s.logs, err = root.SelectServices(config.RekorLogURLs(), config.RekorLogURLsConfig(), sign.RekorAPIVersions, now)
	if err != nil {
		return fmt.Errorf("choosing a transparency log: %w", err)
	}
	return nil
}

// Identity is who signs, as the token says and the certificate proves.
func (s *Signer) Identity() evidence.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// Sign makes a bundle of a statement and verifies it as a consumer would. A service that fails is
// tried again with a new signature; when the attempts are spent the error is fault.Unavailable.
func (s *Signer) Sign(ctx context.Context, st evidence.Statement) (evidence.Bundle, error) {
	payload, err := json.Marshal(st)
	if err != nil {
		return evidence.Bundle{}, fault.Wrap(err, fault.Invalid, "encoding statement about", st.Subject[0].Name)
	}
	var content []byte
	err = s.options.attempt(ctx, "signing "+st.PredicateType+" of", st.Subject[0].Name, func() error {
		content, err = s.sign(ctx, payload)
		return err
	})
	if err != nil {
		return evidence.Bundle{}, err
	}
	id := s.Identity()
	want := Expect{Signer: family.Signer{
		Issuer: id.Issuer, Repository: id.Repository, RepositoryID: id.RepositoryID, OwnerID: id.OwnerID,
		Workflow: id.WorkflowPath, Ref: family.Pattern(id.Ref), Builder: family.Pattern(id.BuilderID), Runner: id.Runner,
	}, Commit: id.Commit}
	if _, err := s.trust.Verify(content, st.About(), want); err != nil {
		return evidence.Bundle{}, fault.Wrap(err, fault.Forged, "verifying what was signed about", st.Subject[0].Name)
	}
	return evidence.Bundle{Subject: st.About(), PredicateType: st.PredicateType, JSON: content}, nil
}

// sign makes one bundle: signature, timestamps, log entries.
func (s *Signer) sign(ctx context.Context, payload []byte) ([]byte, error) {
	c, err := s.credential(ctx)
	if err != nil {
		return nil, err
	}
	options := sign.BundleOptions{Context: ctx, CertificateProvider: c}
	// New clients for each bundle: sigstore-go's fill their options in lazily and unlocked.
	for _, a := range s.authorities {
		options.TimestampAuthorities = append(options.TimestampAuthorities, sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: a.URL}))
	}
	for _, l := range s.logs {
		options.TransparencyLogs = append(options.TransparencyLogs, sign.NewRekor(&sign.RekorOptions{BaseURL: l.URL, Version: l.MajorAPIVersion}))
	}
	signed, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: evidence.PayloadT}, c.key, options)
	if err != nil {
		return nil, err
	}
	content, err := protojson.Marshal(signed)
	if err != nil {
		return nil, err
	}
	return compact(content)
}

// renewal is how long before its end a certificate is not used any more; Fulcio's live ten minutes.
const renewal = 2 * time.Minute

// credential is a key and the certificate for it. It is a sign.CertificateProvider of itself.
type credential struct {
	key         *sign.EphemeralKeypair
	certificate []byte // DER
	until       time.Time
}

// GetCertificate returns the certificate that is already there, instead of a new one per signature.
func (c credential) GetCertificate(context.Context, sign.Keypair, *sign.CertificateProviderOptions) ([]byte, error) {
	return c.certificate, nil
}

// credential returns the job's certificate, and a new one when it nears its end.
func (s *Signer) credential(ctx context.Context) (credential, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.Now().Before(s.current.until) {
		return s.current, nil
	}
	err := s.options.attempt(ctx, "getting certificate from", s.fulcio.URL, func() error { return s.certify(ctx) })
	return s.current, err
}

// certify asks for a token and a certificate, and accepts them when they agree.
func (s *Signer) certify(ctx context.Context) error {
	token, err := s.token(ctx)
	if err != nil {
		return err
	}
	claimed, err := identityOfToken(token)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "reading", "OIDC token")
	}
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return err
	}
	fulcio := sign.NewFulcio(&sign.FulcioOptions{BaseURL: s.fulcio.URL})
	der, err := fulcio.GetCertificate(ctx, key, &sign.CertificateProviderOptions{IDToken: token})
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	proven, err := identityOfCertificate(leaf)
	if err == nil {
		err = sameIdentity(proven, claimed)
	}
	if err == nil && s.identity.Issuer != "" {
		err = sameIdentity(proven, s.identity)
	}
	if err != nil {
		return fault.Wrap(err, fault.Forged, "comparing token with certificate of", s.fulcio.URL)
	}
	s.identity = claimed
	s.current = credential{key: key, certificate: der, until: leaf.NotAfter.Add(-renewal)}
	return nil
}

// attempt tries an operation of the services until it succeeds or the attempts are spent. An error
// that has a kind already is nothing that trying again would change.
func (o Options) attempt(ctx context.Context, op, subject string, try func() error) error {
	pause := o.Pause
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fault.Wrap(context.Cause(ctx), fault.Interrupted, op, subject)
		}
		if kind, known := fault.KindOf(err); known {
			return fault.Wrap(err, kind, op, subject)
		}
		if n >= o.Attempts {
			return fault.New(fault.Unavailable, op, subject, "after %d attempts: %w", n, err).
				WithHint("run the same command again")
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause *= 2
	}
}
