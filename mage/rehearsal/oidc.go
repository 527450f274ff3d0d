package rehearsal

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// keyID names the one key that signs; tokenLife is how long a token is good for.
const (
	keyID     = "rehearsal"
	tokenLife = 5 * time.Minute
)

// newKey makes the issuer's key, once a token is asked for.
func newKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // crypto/rand does not fail on a machine that works
	}
	return key
}

// serveOIDC is the issuer of GitHub Actions: the token endpoint that ACTIONS_ID_TOKEN_REQUEST_URL
// names, and what a verifier such as Fulcio reads (OpenID Connect Discovery 1.0, section 4).
func (g *GitHub) serveOIDC(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		reply(w, http.StatusOK, map[string]any{
			"issuer": origin(r), "jwks_uri": origin(r) + "/.well-known/jwks",
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"}, "scopes_supported": []string{"openid"},
		})
	case "/.well-known/jwks":
		public := g.key().PublicKey
		reply(w, http.StatusOK, map[string]any{"keys": []map[string]string{{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": keyID,
			"n": raw(public.N.Bytes()), "e": raw(big.NewInt(int64(public.E)).Bytes()),
		}}})
	case "/oidc/token":
		g.serveIDToken(w, r)
	default:
		decline(w, http.StatusNotFound, "Not Found")
	}
}

// serveIDToken gives an ID token to a job that may have one (actions/toolkit, oidc-utils.ts). The
// secret of a Token with the scope id-token:write stands for ACTIONS_ID_TOKEN_REQUEST_TOKEN.
func (g *GitHub) serveIDToken(w http.ResponseWriter, r *http.Request) {
	secret := secretOf(r)
	token := g.account(secret)
	switch {
	case secret == "" || token == nil && !g.open():
		decline(w, http.StatusUnauthorized, "Unauthorized")
	case token != nil && !token.may("id-token:write"):
		decline(w, http.StatusForbidden, "the job lacks the permission id-token: write")
	case r.Method != http.MethodGet:
		decline(w, http.StatusMethodNotAllowed, "Method Not Allowed")
	default:
		claims := g.claims(origin(r), r.URL.Query().Get("audience"), token)
		reply(w, http.StatusOK, map[string]string{"value": g.sign(claims)})
	}
}

// claims are those of a push to main in the token's repository, and over them the option's. The
// repository is the model's own unless somebody names one: nothing is passed off as another's.
func (g *GitHub) claims(issuer, audience string, token *Token) map[string]any {
	g.mu.Lock()
	id := g.nextID()
	g.mu.Unlock()
	repository := "rehearsal/rehearsal"
	if token != nil && token.Repository != "" {
		repository = token.Repository
	}
	owner, _, _ := strings.Cut(repository, "/")
	if audience == "" {
		audience = "https://github.com/" + owner
	}
	workflow := repository + "/.github/workflows/release.yml@refs/heads/main"
	commit := strings.Repeat("0", 40)
	now := g.options.Now()
	claims := map[string]any{
		"iss": issuer, "aud": audience, "jti": fmt.Sprintf("rehearsal-%d", id),
		"sub": "repo:" + repository + ":ref:refs/heads/main",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLife).Unix(),
		"actor": owner, "actor_id": "1", "base_ref": "", "head_ref": "", "event_name": "push",
		"ref": "refs/heads/main", "ref_type": "branch", "sha": commit,
		"repository": repository, "repository_id": "2", "repository_owner": owner, "repository_owner_id": "1",
		"repository_visibility": "public", "run_id": "3", "run_number": "1", "run_attempt": "1",
		"runner_environment": "github-hosted", "workflow": "release", "workflow_ref": workflow, "workflow_sha": commit,
		"job_workflow_ref": workflow, "job_workflow_sha": commit,
	}
	for name, value := range g.options.Claims {
		claims[name] = value
	}
	return claims
}

// sign makes a JSON web token with RS256 (RFC 7515, RFC 7518 section 3.3).
func (g *GitHub) sign(claims map[string]any) string {
	header := encode(map[string]string{"alg": "RS256", "kid": keyID, "typ": "JWT"})
	signed := raw([]byte(strings.TrimSpace(header))) + "." + raw([]byte(strings.TrimSpace(encode(claims))))
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, g.key(), crypto.SHA256, sum[:])
	if err != nil {
		panic(err) // 2048 bits hold a SHA-256
	}
	return signed + "." + raw(signature)
}

func raw(content []byte) string { return base64.RawURLEncoding.EncodeToString(content) }
