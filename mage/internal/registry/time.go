package registry

import (
	"context"
	"net/http"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Time asks the registry for its clock, and so whether it answers at all.
func (c *Client) Time(ctx context.Context) (time.Time, error) {
	scheme := "https"
	if c.base.Loopback() {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+c.base.Host+"/v2/", nil)
	if err != nil {
		return time.Time{}, fault.Wrap(err, fault.Invalid, "asking", c.base.Host)
	}
	resp, err := c.auth.Client.Do(req) // without a login: a challenge is an answer, too
	if err != nil {
		return time.Time{}, classify(err, fault.Unavailable, "asking the time of", c.base.Host)
	}
	defer drop(resp)
	at, err := http.ParseTime(resp.Header.Get("Date"))
	return at, fault.Wrap(err, fault.Unavailable, "asking the time of", c.base.Host)
}
