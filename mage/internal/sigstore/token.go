package sigstore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containai/containai/mage/fault"
)

// tokenLimit is how long one token request may take.
const tokenLimit = 30 * time.Second

// ActionsToken returns the token source of a GitHub Actions job, of which the local one has the
// shape: url and bearer are $ACTIONS_ID_TOKEN_REQUEST_URL and $ACTIONS_ID_TOKEN_REQUEST_TOKEN.
// https://docs.github.com/en/actions/reference/security/oidc#methods-for-requesting-the-oidc-token
func ActionsToken(url, bearer string) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		token, err := requestToken(ctx, url+"&audience=sigstore", bearer)
		if err != nil {
			return "", &fault.Error{
				Op: "requesting", Subject: "OIDC token", Kind: fault.Environment, Err: err,
				Hint: "in GitHub Actions the job needs `permissions: id-token: write`",
			}
		}
		return token, nil
	}
}

func requestToken(ctx context.Context, url, bearer string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "bearer "+bearer)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the issuer answered %s", response.Status)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxToken)).Decode(&answer); err != nil {
		return "", fmt.Errorf("reading the issuer's answer: %w", err)
	}
	if answer.Value == "" {
		return "", fmt.Errorf("the issuer's answer holds no token")
	}
	return answer.Value, nil
}
