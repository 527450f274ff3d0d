package sigstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containai/containai/mage/fault"
)

// audience is whom a token is for: certificate authorities take no other, and others must not take it.
const audience = "sigstore"

// tokenLimit is how long one token request may take.
const tokenLimit = 30 * time.Second

// ActionsToken returns the token source of a GitHub Actions job, of which the local one has the
// shape: url and bearer are $ACTIONS_ID_TOKEN_REQUEST_URL and $ACTIONS_ID_TOKEN_REQUEST_TOKEN. A
// refusal is fault.Environment; any other failure has no kind, and is worth another attempt.
// https://docs.github.com/en/actions/reference/security/oidc#methods-for-requesting-the-oidc-token
func ActionsToken(url, bearer string) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		return requestToken(ctx, url+"&audience="+audience, bearer)
	}
}

func requestToken(ctx context.Context, url, bearer string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fault.Wrap(err, fault.Environment, "requesting", "OIDC token")
	}
	request.Header.Set("Authorization", "bearer "+bearer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("requesting OIDC token: %w", err)
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusUnauthorized, response.StatusCode == http.StatusForbidden:
		return "", fault.New(fault.Environment, "requesting", "OIDC token", "the issuer answered %s", response.Status).
			WithHint("in GitHub Actions the job needs `permissions: id-token: write`")
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("requesting OIDC token: the issuer answered %s", response.Status)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxToken)).Decode(&answer); err != nil {
		return "", fmt.Errorf("reading OIDC token: %w", err)
	}
	if answer.Value == "" {
		return "", errors.New("reading OIDC token: the answer holds none")
	}
	return answer.Value, nil
}
