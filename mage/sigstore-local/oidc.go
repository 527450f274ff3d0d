package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/sigstore/fulcio/pkg/config"
	"github.com/sigstore/fulcio/pkg/identity"
	"github.com/sigstore/fulcio/pkg/identity/ciprovider"
)

// audience is the one that Fulcio accepts, as in public.
const audience = "sigstore"

// tokenLife is how long a token is good for, as on GitHub.
const tokenLife = 10 * time.Minute

// issuer makes the tokens of one run and lets Fulcio check them. Its key never leaves memory.
type issuer struct {
	name   string // the "iss" of every token
	claims claims
	bearer string // what the parent must show
	public crypto.PublicKey
	signer jose.Signer
}

func newIssuer(who claims) (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	// RS256, as GitHub: cosign takes a token of any other algorithm for a file name.
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "local"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	name, _ := who["iss"].(string)
	return &issuer{name: name, claims: who, bearer: rand.Text(), public: key.Public(), signer: signer}, nil
}

// ServeHTTP answers like $ACTIONS_ID_TOKEN_REQUEST_URL.
// https://docs.github.com/en/actions/reference/security/oidc#methods-for-requesting-the-oidc-token
func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare([]byte(shown), []byte(i.bearer)) != 1 {
		http.Error(w, "the bearer token is not this run's", http.StatusUnauthorized)
		return
	}
	token, err := i.mint(r.URL.Query().Get("audience"), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": token})
}

func (i *issuer) mint(audience string, now time.Time) (string, error) {
	c := maps.Clone(i.claims)
	c["aud"], c["iat"], c["nbf"], c["exp"] = audience, now.Unix(), now.Add(-5*time.Second).Unix(), now.Add(tokenLife).Unix()
	content, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signed, err := i.signer.Sign(content)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Match and Authenticate make the issuer one of Fulcio's: go-oidc's verifier and Fulcio's own
// principal, with this run's key instead of discovery. So the issuer's name needs no server and
// stays the same in every run.
func (i *issuer) Match(_ context.Context, name string) bool { return name == i.name }

func (i *issuer) Authenticate(ctx context.Context, token string, _ ...config.InsecureOIDCConfigOption) (identity.Principal, error) {
	keys := &oidc.StaticKeySet{PublicKeys: []crypto.PublicKey{i.public}}
	verified, err := oidc.NewVerifier(i.name, keys, &oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.RS256}}).Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("checking token: %w", err)
	}
	return ciprovider.WorkflowPrincipalFromIDToken(ctx, verified)
}
