package registry

import (
	"cmp"
	"context"

	"github.com/containai/containai/mage/fault"
)

// Password returns the secret of this client's login: at GHCR it is the token that GitHub's REST API
// takes as well. Without a login it is empty.
func (c *Client) Password(ctx context.Context) (string, error) {
	login, err := c.auth.Credential(ctx, c.base.Host)
	return cmp.Or(login.Password, login.AccessToken), fault.Wrap(err, fault.Environment, "reading login of", c.base.Host)
}
