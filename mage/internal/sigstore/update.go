package sigstore

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"

	"github.com/containai/containai/mage/fault"
)

// Updates is a TUF repository in which an instance publishes where to sign. Its zero value, but for
// the cache, is the public instance's.
type Updates struct {
	Cache  string // directory that remembers what was seen, so that the repository cannot go back
	Mirror string // URL; empty is https://tuf-repo-cdn.sigstore.dev
	Root   []byte // root.json to begin with; empty is the one built in
}

// signingConfigTarget is the instance's default; that of Rekor v2 is another target.
const signingConfigTarget = "signing_config.v0.2.json"

// updateLimit is how long an update may take; it is a handful of small files.
const updateLimit = time.Minute

// FetchSigningConfig brings the instance's current signing config and returns the path of its file.
// The trusted root does not come with it: what is signed must verify under the one that consumers
// have. A repository that does not answer is fault.Unavailable, one that contradicts its own keys or
// what was seen before fault.Forged.
//
// https://theupdateframework.github.io/specification/latest/#detailed-client-workflow
func FetchSigningConfig(ctx context.Context, u Updates) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, updateLimit)
	defer cancel()
	options := tuf.DefaultOptions().WithContext(ctx).WithCachePath(u.Cache)
	if u.Mirror != "" {
		options = options.WithRepositoryBaseURL(u.Mirror)
	}
	if u.Root != nil {
		options = options.WithRoot(u.Root)
	}
	asked := &asker{ctx: ctx}
	files := fetcher.NewDefaultFetcher()
	files.SetHTTPClient(asked)
	options = options.WithFetcher(files)
	content, err := target(options)
	if err != nil && asked.failed {
		return "", fault.Wrap(err, fault.Unavailable, "updating from", options.RepositoryBaseURL)
	}
	if err != nil {
		return "", fault.Wrap(err, fault.Forged, "updating from", options.RepositoryBaseURL)
	}
	path := filepath.Join(u.Cache, "signing_config.json")
	return path, fault.Wrap(os.WriteFile(path, content, 0o644), fault.Environment, "writing", path)
}

// target fetches the signing config and sees that it is one.
func target(options *tuf.Options) ([]byte, error) {
	client, err := tuf.New(options)
	if err != nil {
		return nil, err
	}
	content, err := client.GetTarget(signingConfigTarget)
	if err != nil {
		return nil, err
	}
	_, err = root.NewSigningConfigFromJSON(content)
	return content, err
}

// asker is an HTTP client whose requests end with the context: TUF's fetcher has no other way. It
// notes whether one had no answer, or one of a server in trouble.
type asker struct {
	ctx    context.Context
	failed bool
}

// Do sends one request.
func (a *asker) Do(req *http.Request) (*http.Response, error) {
	response, err := http.DefaultClient.Do(req.WithContext(a.ctx))
	a.failed = a.failed || err != nil || response.StatusCode >= http.StatusInternalServerError
	return response, err
}
