// Package attestations reads what GitHub keeps about a digest, and adds to it: the Sigstore bundles of a
// repository's attestations API.
//
// A [Client] belongs to one repository and asks without login, which public repositories allow; an
// [Archive] is one with a token that stores as well. The API vouches for nothing: who stores a bundle
// there needs no more than write access. Invariant: no byte of an answer is parsed before its size was
// bounded, no more is returned than the limits, and the token is shown to the API alone.
package attestations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/ref"
)

// Limits of what the API is listened to.
const (
	maxBundles    = 64        // about one digest
	maxBundle     = 48 << 20  // bytes
	maxBytes      = 128 << 20 // of all answers about one digest
	maxPages      = 8
	maxRedirects  = 5
	answerTimeout = time.Minute
)

// gitHub is the server whose repositories have this API.
const gitHub = "https://github.com/"

// Client asks for one repository's bundles. It is safe for concurrent use.
type Client struct {
	list  string // URL of the list, but for the digest
	token string // empty: without login
	http  *http.Client
}

var repositoryGrammar = lazyregexp.New(`^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$`)

// New returns a client for a repository by its URL; api is https://api.github.com or what stands for
// it. It sends nothing. Plain HTTP is for loopback addresses only.
func New(api, repository string) (*Client, error) {
	name, ok := strings.CutPrefix(repository, gitHub)
	if !ok || !repositoryGrammar.MatchString(name) {
		return nil, fault.New(fault.Invalid, "reading attestations of", repository, "it is not a repository of %s", gitHub)
	}
	u, err := url.Parse(api)
	if err != nil || allowed(u) != nil {
		return nil, fault.New(fault.Invalid, "reading attestations of", repository, "the API at %q is not an https URL", api)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, ResponseHeaderTimeout: answerTimeout, TLSHandshakeTimeout: answerTimeout}
	return &Client{
		list: strings.TrimSuffix(api, "/") + "/repos/" + name + "/attestations/",
		http: &http.Client{Transport: transport, CheckRedirect: checkRedirect},
	}, nil
}

func allowed(u *url.URL) error {
	if u.Scheme != "https" && !(u.Scheme == "http" && (ref.Repo{Host: u.Host}).Loopback()) {
		return fmt.Errorf("%s://%s: plain HTTP is used for loopback addresses only", u.Scheme, u.Host)
	}
	return nil
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return allowed(req.URL)
}

// entry is one attestation of a page. Since July 2026 the bundle is kept apart.
// https://docs.github.com/rest/repos/attestations#list-attestations
type entry struct {
	Bundle json.RawMessage `json:"bundle"`
	URL    string          `json:"bundle_url"`
}

// inline reports whether the bundle came with the page.
func (e entry) inline() bool { return len(e.Bundle) > 0 && string(e.Bundle) != "null" }

// Bundles returns the bundles about a digest, as they are; nothing is no error. More than the limits
// is fault.Refused, what does not come is fault.Unavailable.
func (c *Client) Bundles(ctx context.Context, subject digest.Digest) ([][]byte, error) {
	r := &reading{client: c, subject: subject, left: maxBytes}
	err := r.pages(ctx, c.list+subject.String()+"?per_page=100")
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "reading attestations of", subject.String())
	}
	return r.bundles, nil
}

// reading is one digest's bundles on their way.
type reading struct {
	client  *Client
	subject digest.Digest
	left    int64 // bytes that may still come
	bundles [][]byte
}

func (r *reading) pages(ctx context.Context, at string) error {
	for n := 0; at != ""; n++ {
		if n == maxPages {
			return r.flood()
		}
		content, next, err := r.get(ctx, at)
		if err != nil || content == nil {
			return err
		}
		var page struct {
			Attestations []entry `json:"attestations"`
		}
		if err := json.Unmarshal(content, &page); err != nil {
			return fmt.Errorf("decoding the list: %w", err)
		}
		if len(r.bundles)+len(page.Attestations) > maxBundles {
			return r.flood()
		}
		for _, e := range page.Attestations {
			bundle, err := r.bundle(ctx, e)
			if err != nil {
				return err
			}
			r.bundles = append(r.bundles, bundle)
		}
		if at, err = r.follow(next); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) flood() error {
	return fault.New(fault.Refused, "reading attestations of", r.subject.String(), "GitHub keeps more than %d of them, or %d bytes", maxBundles, maxBytes)
}

var nextPage = lazyregexp.New(`<([^<>]+)>; *rel="next"`)

// follow takes the next page's URL from a Link header, RFC 8288; it must be of the same list.
func (r *reading) follow(link string) (string, error) {
	m := nextPage.FindStringSubmatch(link)
	if m == nil {
		return "", nil
	}
	if !strings.HasPrefix(m[1], r.client.list) {
		return "", fmt.Errorf("the next page is of another list: %s", m[1])
	}
	return m[1], nil
}

// bundle returns what came with the page or fetches what is kept apart, compressed by Snappy.
func (r *reading) bundle(ctx context.Context, e entry) ([]byte, error) {
	if e.inline() {
		return e.Bundle, nil
	}
	content, _, err := r.get(ctx, e.URL)
	switch {
	case err != nil:
		return nil, err
	case content == nil:
		return nil, fmt.Errorf("a bundle that it names is not there")
	case content[0] == '{': // Snappy would begin so for 123 bytes, which are no bundle
		return content, nil
	}
	size, err := snappy.DecodedLen(content)
	if err != nil {
		return nil, fmt.Errorf("decompressing a bundle: %w", err)
	}
	if int64(size) > min(maxBundle, r.left) {
		return nil, r.flood()
	}
	r.left -= int64(size)
	return snappy.Decode(nil, content)
}

// get reads one answer whole, within what is left; a 404 is no content.
func (r *reading) get(ctx context.Context, at string) (content []byte, link string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, "", err
	}
	if err := allowed(req.URL); err != nil {
		return nil, "", err
	}
	if strings.HasPrefix(at, r.client.list) {
		r.client.introduce(req)
	}
	resp, err := r.client.http.Do(req)
	if err != nil {
		return nil, "", withoutURL(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, "", nil
	default:
		return nil, "", r.client.answered(resp)
	}
	content, err = io.ReadAll(io.LimitReader(resp.Body, r.left+1))
	if len(content) == 0 && err == nil {
		err = fmt.Errorf("%s answers nothing", req.URL.Host)
	}
	if r.left -= int64(len(content)); err == nil && r.left < 0 {
		err = r.flood()
	}
	return content, resp.Header.Get("Link"), err
}

// introduce says who asks, to the API and to nobody else: an address of a bundle is another host's.
func (c *Client) introduce(req *http.Request) {
	req.Header.Set("User-Agent", "containai")
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
}

// withoutURL is the cause alone: the address of a bundle is signed, and whoever has it may read there.
func withoutURL(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (c *Client) answered(resp *http.Response) error {
	if c.token != "" && resp.StatusCode == http.StatusUnauthorized {
		return fault.New(fault.Environment, "asking", resp.Request.URL.Host, "it answers %s", resp.Status).WithHint(storeHint)
	}
	err := fault.New(fault.Unavailable, "asking", resp.Request.URL.Host, "it answers %s", resp.Status)
	if c.token == "" && (resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusTooManyRequests) {
		return err.WithHint("without login GitHub answers 60 calls an hour: try later, or bring an evidence file")
	}
	return err
}
