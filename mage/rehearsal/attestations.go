package rehearsal

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/snappy"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// maxBundle is the most that the model takes for one bundle, in bytes; actions/attest allows a
// predicate of 16 MB.
const maxBundle = 24 << 20

// noFeature is how a private repository is refused whose owner has no Enterprise Cloud.
const noFeature = "Feature not available for user-owned private repositories. To enable this feature, please make this repository public."

// attestation is one bundle that a repository stored.
type attestation struct {
	id            int64
	repository    string // owner/name
	subjects      []string
	predicateType string
	bundle        json.RawMessage
}

var attestationPath = lazyregexp.New(`^/repos/([^/]+/[^/]+)/attestations(?:/([^/]+))?$`)

// serveAttestations is the attestations API of a repository: it stores what it is given, checks no
// signature and vouches for nothing, exactly as GitHub says of its own.
func (g *GitHub) serveAttestations(w http.ResponseWriter, r *http.Request, by caller) {
	m := attestationPath.FindStringSubmatch(r.URL.Path)
	switch {
	case m != nil && m[2] == "" && r.Method == http.MethodPost:
		g.storeAttestation(w, r, m[1], by)
	case m != nil && m[2] != "" && r.Method == http.MethodGet && !slices.Contains(g.options.Private, m[1]):
		g.listAttestations(w, r, m[1], m[2])
	default:
		decline(w, http.StatusNotFound, "Not Found")
	}
}

func (g *GitHub) storeAttestation(w http.ResponseWriter, r *http.Request, repository string, by caller) {
	switch own := by.anybody || by.token != nil && (by.token.Repository == "" || by.token.Repository == repository); {
	case !own || !by.may("attestations:write"):
		decline(w, http.StatusForbidden, noAdmin)
		return
	case slices.Contains(g.options.Private, repository):
		decline(w, http.StatusForbidden, noFeature)
		return
	}
	content, err := io.ReadAll(io.LimitReader(r.Body, maxBundle+1))
	if err != nil || len(content) > maxBundle {
		decline(w, http.StatusRequestEntityTooLarge, "the bundle is too large")
		return
	}
	a, err := parseAttestation(content)
	if err != nil {
		decline(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a.id, a.repository = g.nextID(), repository
	g.attestations = append(g.attestations, a)
	reply(w, http.StatusCreated, map[string]int64{"id": a.id})
}

// parseAttestation reads {"bundle": …}, a Sigstore bundle around an in-toto statement v1.
func parseAttestation(content []byte) (attestation, error) {
	var body struct{ Bundle json.RawMessage }
	var bundle struct {
		MediaType            string
		VerificationMaterial json.RawMessage
		DSSEEnvelope         struct{ Payload string }
	}
	var statement struct {
		Subject       []struct{ Digest map[string]string }
		PredicateType string
	}
	err := json.Unmarshal(content, &body)
	if err == nil {
		err = json.Unmarshal(body.Bundle, &bundle)
	}
	var payload []byte
	if err == nil {
		payload, err = base64.StdEncoding.DecodeString(bundle.DSSEEnvelope.Payload)
	}
	if err == nil {
		err = json.Unmarshal(payload, &statement)
	}
	if err != nil {
		return attestation{}, fault.Wrap(err, fault.Invalid, "reading", "bundle")
	}
	a := attestation{predicateType: statement.PredicateType, bundle: body.Bundle}
	for _, s := range statement.Subject {
		if d := digest.NewDigestFromEncoded(digest.SHA256, s.Digest["sha256"]); d.Validate() == nil {
			a.subjects = append(a.subjects, d.String())
		}
	}
	if bundle.MediaType == "" || len(bundle.VerificationMaterial) == 0 || len(a.subjects) == 0 {
		return attestation{}, fault.New(fault.Invalid, "reading", "bundle", "it wants a mediaType, verificationMaterial and a subject with a sha256")
	}
	return a, nil
}

// listAttestations answers with the bundles about a digest, newest first.
func (g *GitHub) listAttestations(w http.ResponseWriter, r *http.Request, repository, subject string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	type entry struct {
		Bundle       json.RawMessage `json:"bundle"`
		RepositoryID int             `json:"repository_id"`
		BundleURL    string          `json:"bundle_url,omitempty"`
	}
	list := []entry{}
	for _, a := range newestFirst(g.attestations) {
		if a.repository == repository && slices.Contains(a.subjects, subject) && a.is(r.URL.Query().Get("predicate_type")) {
			e := entry{Bundle: a.bundle, RepositoryID: 2}
			if g.options.BundlesApart {
				e.Bundle, e.BundleURL = json.RawMessage("null"), fmt.Sprintf("http://%s/bundles/%d.json.sn?sig=signed", r.Host, a.id)
			}
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		decline(w, http.StatusNotFound, "Not Found")
		return
	}
	reply(w, http.StatusOK, map[string]any{"attestations": list})
}

// serveBundle is the storage behind a list whose bundles are kept apart: JSON compressed by Snappy, for
// whoever knows the signed address.
func (g *GitHub) serveBundle(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	var bundle []byte
	for _, a := range g.attestations {
		if r.URL.Path == fmt.Sprintf("/bundles/%d.json.sn", a.id) {
			bundle = a.bundle
		}
	}
	g.mu.Unlock()
	if bundle == nil || r.Method != http.MethodGet || r.URL.RawQuery != "sig=signed" || r.Header.Get("Authorization") != "" {
		decline(w, http.StatusForbidden, "AuthenticationFailed")
		return
	}
	w.Header().Set("Content-Type", "application/x-snappy")
	_, _ = w.Write(snappy.Encode(nil, bundle))
}

// is matches the filter predicate_type: one of GitHub's short words, or the whole URI.
func (a attestation) is(filter string) bool {
	switch filter {
	case "":
		return true
	case "provenance":
		return strings.HasPrefix(a.predicateType, "https://slsa.dev/provenance/")
	case "sbom":
		return strings.HasPrefix(a.predicateType, "https://spdx.dev/Document") || strings.HasPrefix(a.predicateType, "https://cyclonedx.org/bom")
	case "release":
		return strings.HasPrefix(a.predicateType, "https://in-toto.io/attestation/release/")
	}
	return a.predicateType == filter
}
