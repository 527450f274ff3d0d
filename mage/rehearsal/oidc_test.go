package rehearsal_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/containai/containai/mage/rehearsal"
)

// verified checks a token as a relying party does, from discovery to signature, and returns its claims.
func (w *world) verified(token string) map[string]any {
	w.t.Helper()
	var discovery struct {
		Issuer  string
		JWKSURI string `json:"jwks_uri"`
	}
	decodeInto(w.t, w.request("GET", "/.well-known/openid-configuration", "").body, &discovery)
	var set struct{ Keys []struct{ N, E, Kid string } }
	decodeInto(w.t, w.request("GET", discovery.JWKSURI, "").body, &set)
	key := rsa.PublicKey{N: new(big.Int).SetBytes(w.unbase64(set.Keys[0].N)), E: int(new(big.Int).SetBytes(w.unbase64(set.Keys[0].E)).Int64())}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		w.t.Fatalf("token %q", token)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key, crypto.SHA256, sum[:], w.unbase64(parts[2])); err != nil {
		w.t.Fatal(err)
	}
	var claims map[string]any
	decodeInto(w.t, string(w.unbase64(parts[1])), &claims)
	if claims["iss"] != discovery.Issuer || discovery.Issuer != w.url {
		w.t.Errorf("issuer %v, discovered %s at %s", claims["iss"], discovery.Issuer, w.url)
	}
	return claims
}

func (w *world) unbase64(s string) []byte {
	w.t.Helper()
	content, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return content
}

func TestAJobHasAnIDTokenThatVerifies(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens(), Claims: map[string]string{"ref": "refs/heads/next", "environment": "prod"}})
	anonymous := w.as("")
	var got struct{ Value string }
	decodeInto(t, w.as("workflow").request("GET", "/oidc/token?api-version=2&audience=sigstore", "").wants(t, 200, "").body, &got)
	claims := anonymous.verified(got.Value)
	for name, want := range map[string]any{
		"aud": "sigstore", "repository": "acme/family", "repository_owner": "acme", "ref": "refs/heads/next", "environment": "prod",
		"sub":              "repo:acme/family:ref:refs/heads/main",
		"job_workflow_ref": "acme/family/.github/workflows/release.yml@refs/heads/main",
		"exp":              float64(rehearsal.Epoch().Add(5 * time.Minute).Unix()),
	} {
		if claims[name] != want {
			t.Errorf("claim %s = %v, want %v", name, claims[name], want)
		}
	}
	decodeInto(t, w.as("workflow").request("GET", "/oidc/token", "").body, &got)
	if aud := anonymous.verified(got.Value)["aud"]; aud != "https://github.com/acme" {
		t.Errorf("default audience %v", aud)
	}
}

func TestAnIDTokenIsRefusedToWhoMayNotHaveOne(t *testing.T) { // fault row F10
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	w.request("GET", "/oidc/token", "").wants(t, 401, "")
	w.as("forged").request("GET", "/oidc/token", "").wants(t, 401, "")
	w.as("other").request("GET", "/oidc/token", "").wants(t, 403, "id-token: write")
	w.as("workflow").request("POST", "/oidc/token", "").wants(t, 405, "")
	w.request("GET", "/.well-known/other", "").wants(t, 404, "")
	newWorld(t, rehearsal.Options{}).as("anything").request("GET", "/oidc/token", "").wants(t, 200, "value")
}

// bundle is the body of a POST of an attestation.
func bundle(predicateType string, digests ...string) string {
	var subjects []string
	for _, d := range digests {
		subjects = append(subjects, fmt.Sprintf(`{"name":"a","digest":{"sha256":%q}}`, strings.TrimPrefix(d, "sha256:")))
	}
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[%s],"predicateType":%q}`, strings.Join(subjects, ","), predicateType)
	return fmt.Sprintf(`{"bundle":{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"dsseEnvelope":{"payload":%q}}}`,
		base64.StdEncoding.EncodeToString([]byte(statement)))
}

func TestAttestationsAreStoredAndFiltered(t *testing.T) {
	w := newWorld(t, rehearsal.Options{Tokens: tokens()})
	const path = "/repos/acme/family/attestations"
	w.as("workflow").request("POST", path, bundle("https://slsa.dev/provenance/v1", zeroDigest)).wants(t, 201, `{"id":`)
	w.as("workflow").request("POST", path, bundle("https://cyclonedx.org/bom", zeroDigest)).wants(t, 201, `{"id":`)
	for query, want := range map[string]int{
		"": 2, "?predicate_type=provenance": 1, "?predicate_type=sbom": 1, "?predicate_type=release": 0, "?predicate_type=https://cyclonedx.org/bom": 1,
	} {
		got := w.request("GET", path+"/"+zeroDigest+query, "")
		if n := strings.Count(got.body, `"mediaType"`); n != want || (got.status == 200) != (want > 0) {
			t.Errorf("%q: %d with %d bundles, want %d", query, got.status, n, want)
		}
	}
	w.request("GET", "/repos/acme/other/attestations/"+zeroDigest, "").wants(t, 404, "")
	w.request("GET", path, "").wants(t, 404, "")
}

func TestBundlesThatAreKeptApart(t *testing.T) {
	w := newWorld(t, rehearsal.Options{BundlesApart: true})
	w.request("POST", "/repos/acme/family/attestations", bundle("https://slsa.dev/provenance/v1", zeroDigest)).wants(t, 201, "")
	list := w.request("GET", "/repos/acme/family/attestations/"+zeroDigest, "")
	list.wants(t, 200, `"bundle":null`)
	_, at, _ := strings.Cut(list.body, "/bundles/")
	at, _, _ = strings.Cut(at, `"`)
	w.request("GET", "/bundles/"+at, "").wants(t, 200, "mediaType")
	w.request("GET", "/bundles/"+strings.TrimSuffix(at, "signed"), "").wants(t, 403, "")
	w.request("GET", "/bundles/x", "").wants(t, 403, "")
}

func TestAttestationsThatAreRefused(t *testing.T) {
	secret := rehearsal.Token{Secret: "secret", Repository: "acme/secret", Scopes: []string{"attestations:write"}}
	w := newWorld(t, rehearsal.Options{Tokens: append(tokens(), secret), Private: []string{"acme/secret"}})
	good := bundle("https://slsa.dev/provenance/v1", zeroDigest)
	for name, test := range map[string]struct {
		secret, path, body string
		status             int
	}{
		"by nobody":                            {"", "/repos/acme/family/attestations", good, 403},
		"by a job without attestations: write": {"other", "/repos/acme/other/attestations", good, 403},
		"by another repository's job":          {"workflow", "/repos/acme/other/attestations", good, 403},
		"by a private repository's job":        {"secret", "/repos/acme/secret/attestations", good, 403},
		"of 24 MiB":                            {"workflow", "/repos/acme/family/attestations", strings.Repeat(" ", 24<<20) + good, 413},
		"no JSON":                              {"workflow", "/repos/acme/family/attestations", "x", 422},
		"no bundle":                            {"workflow", "/repos/acme/family/attestations", "{}", 422},
		"no subject":                           {"workflow", "/repos/acme/family/attestations", bundle("a"), 422},
		"a subject that is no digest":          {"workflow", "/repos/acme/family/attestations", bundle("a", "sha256:1"), 422},
	} {
		t.Run(name, func(t *testing.T) {
			w.as(test.secret).request("POST", test.path, test.body).wants(t, test.status, "")
		})
	}
}
