package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// Limits of a graph that is copied or verified.
const (
	parallel = 4      // blobs at a time
	maxNodes = 10_000 // below one root
	maxDepth = 4      // of indexes in indexes
)

// Copy brings what root reaches from src to dst: blobs in parallel, then manifests from the
// leaves up. What dst has is not sent again; a manifest that is there stands for all below it.
func Copy(ctx context.Context, src, dst graph.Store, root graph.Node) error {
	ctx = patient(ctx)
	below, err := reach(ctx, src, root, dst.Exists)
	if err != nil {
		return err
	}
	if err := each(ctx, below.blobs, func(ctx context.Context, n graph.Node) error { return copyBlob(ctx, src, dst, n) }); err != nil {
		return err
	}
	for _, n := range below.manifests {
		if err := copyManifest(ctx, src, dst, n); err != nil {
			return err
		}
	}
	return nil
}

// CopyFrom is Copy into a repository, which ends when the root reads back. A layer that a sibling
// has is mounted instead of sent.
func (r *Repository) CopyFrom(ctx context.Context, src graph.Store, root graph.Node) error {
	if err := Copy(ctx, src, r, root); err != nil {
		return err
	}
	there, err := r.Exists(ctx, root)
	if err == nil && !there {
		err = unread(r.pin(root), "it was pushed and does not read back")
	}
	return err
}

// Verify proves that everything root reaches is in the store with the size and digest it is
// named by. It reads all of it.
func Verify(ctx context.Context, s graph.Store, root graph.Node) error {
	if r, ok := s.(*Repository); ok {
		s = streamer{r} // what is remembered proves nothing about the registry
	}
	below, err := reach(ctx, s, root, nil)
	if err != nil {
		return err
	}
	return each(ctx, below.blobs, func(ctx context.Context, n graph.Node) error {
		body, err := s.Fetch(ctx, n)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(io.Discard, verified(body, n))
		return classify(err, fault.Unavailable, "verifying", n.Digest.String())
	})
}

// onlyOCI is what to do about media types that have no place in a release.
const onlyOCI = "images and indexes are of OCI media types alone: build with them (BuildKit: oci-mediatypes=true)"

// reached is what a root reaches, each digest once; manifests come after their children.
type reached struct{ manifests, blobs []graph.Node }

// reach walks from a root. Where known says that a manifest is there already, it goes no deeper.
func reach(ctx context.Context, src graph.Store, root graph.Node, known func(context.Context, graph.Node) (bool, error)) (reached, error) {
	if !isManifest(root) {
		return reached{}, fault.New(fault.Refused, "reading", root.Digest.String(), "media type %q is neither a manifest nor an index", root.MediaType).
			WithHint(onlyOCI)
	}
	var out reached
	seen := map[digest.Digest]bool{}
	var walk func(n graph.Node, depth int) error
	walk = func(n graph.Node, depth int) error {
		if seen[n.Digest] {
			return nil
		}
		seen[n.Digest] = true
		if depth > maxDepth || len(seen) > maxNodes {
			return fault.New(fault.Refused, "reading", root.Digest.String(), "it reaches more than %d nodes or is nested deeper than %d", maxNodes, maxDepth)
		}
		if known != nil {
			if there, err := known(ctx, n); err != nil || there {
				return err
			}
		}
		children, err := childrenOf(ctx, src, n)
		if err != nil {
			return err
		}
		for _, child := range children {
			if graph.IsIndex(n) {
				if err := walk(child, depth+1); err != nil {
					return err
				}
			} else if !seen[child.Digest] {
				seen[child.Digest] = true
				out.blobs = append(out.blobs, child)
			}
		}
		out.manifests = append(out.manifests, n)
		return nil
	}
	return out, walk(root, 0)
}

// childrenOf reads the children of a manifest and refuses what could be taken for something
// else: a child of an index is a manifest, what a manifest names is not.
func childrenOf(ctx context.Context, src graph.Store, n graph.Node) ([]graph.Node, error) {
	if n.MediaType == dockerList || n.MediaType == dockerManifest {
		return nil, fault.New(fault.Refused, "reading", n.Digest.String(), "media type %s is not of OCI", n.MediaType).WithHint(onlyOCI)
	}
	children, err := graph.Children(ctx, src, n)
	if err != nil {
		return nil, classify(err, fault.Unavailable, "reading", n.Digest.String())
	}
	for _, child := range children {
		if isManifest(child) != graph.IsIndex(n) {
			return nil, fault.New(fault.Refused, "reading", n.Digest.String(), "its child %s has media type %s", child.Digest, child.MediaType).WithHint(onlyOCI)
		}
	}
	return children, nil
}

// each runs f over nodes, a few at a time, and returns the first error.
func each(ctx context.Context, nodes []graph.Node, f func(context.Context, graph.Node) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, n := range nodes {
		group.Go(func() error { return f(ctx, n) })
	}
	return group.Wait()
}

// copyManifest brings a manifest whose children dst has confirmed.
func copyManifest(ctx context.Context, src, dst graph.Store, n graph.Node) error {
	content, err := graph.Fetch(ctx, src, n, graph.MaxManifest)
	if err != nil {
		return err
	}
	push := func() error {
		_, err := graph.PushBytes(ctx, dst, n.MediaType, content)
		return err
	}
	if r, ok := dst.(*Repository); ok {
		return insist(ctx, r, push, func() error { return r.resend(ctx, src, n) })
	}
	return push()
}

// resend brings again what a manifest names and the repository, asked for each, does not have.
func (r *Repository) resend(ctx context.Context, src graph.Store, n graph.Node) error {
	children, err := childrenOf(ctx, src, n)
	if err != nil {
		return err
	}
	for _, child := range children {
		if graph.IsIndex(n) {
			err = copyManifest(ctx, src, r, child)
		} else {
			r.client.setHome(child.Digest, "") // a mount may be what went wrong
			err = r.transfer(ctx, src, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyBlob(ctx context.Context, src, dst graph.Store, n graph.Node) error {
	if r, ok := dst.(*Repository); ok {
		return r.transfer(ctx, src, n)
	}
	there, err := dst.Exists(ctx, n)
	if err != nil || there {
		return err
	}
	bring := func() error {
		return send(ctx, src, n, func(body io.Reader) error { return dst.Push(ctx, n, body) })
	}
	if from, ok := src.(*Repository); ok {
		return anew(ctx, from.client.waits, bring)
	}
	return bring()
}

// transferTries is how often the transfer of one blob is begun: with the default pause, one that
// breaks each time is given up after five waits of at most a minute together.
const transferTries = 6

// anew begins the transfer of a blob again when it breaks; what arrived was thrown away.
func anew(ctx context.Context, w waits, transfer func() error) error {
	for try := 0; ; try++ {
		err := transfer()
		if !errors.Is(err, errBroken) || try+1 == transferTries {
			return err
		}
		wait, _ := w.decide(answer{outcome: failing}, try, 0, rand.Float64())
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// transfer brings one blob into the repository: nothing if it is there, a mount if a sibling has
// it, an upload otherwise. A broken upload is begun anew, in a session of its own.
func (r *Repository) transfer(ctx context.Context, src graph.Store, n graph.Node) error {
	defer r.client.transfers.lock(n.Digest)()
	err := anew(ctx, r.client.waits, func() error {
		there, err := r.Exists(ctx, n) // the answer alone may have been lost
		if err != nil || there {
			return err
		}
		return r.upload(ctx, src, n)
	})
	if err == nil {
		r.client.setHome(n.Digest, r.name.Path)
	}
	return err
}

func (r *Repository) upload(ctx context.Context, src graph.Store, n graph.Node) error {
	if home := r.client.home(n.Digest); home != "" && home != r.name.Path {
		err := r.remote.Mount(ctx, n, home, func() (io.ReadCloser, error) {
			body, err := src.Fetch(ctx, n)
			if err != nil {
				return nil, err
			}
			return verified(body, n), nil
		})
		if err == nil {
			return nil // mounted, or answered 202 and uploaded
		}
	}
	return send(ctx, src, n, func(body io.Reader) error { return r.sendBlob(ctx, n, body) })
}

// pushBlob sends a blob, and again if that breaks, as long as its content can be read again.
func (r *Repository) pushBlob(ctx context.Context, n graph.Node, content io.Reader) error {
	again, ok := content.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return r.sendBlob(ctx, n, content)
	}
	start, err := again.Seek(0, io.SeekCurrent)
	if err != nil {
		return classify(err, fault.Environment, "pushing", r.pin(n))
	}
	return anew(ctx, r.client.waits, func() error {
		return r.sendBlob(ctx, n, io.NewSectionReader(again, start, n.Size+1)) // a byte more would be found
	})
}

// sendBlob sends a blob once, in an upload session of its own.
func (r *Repository) sendBlob(ctx context.Context, n graph.Node, content io.Reader) error {
	if err := r.client.checkUpload(n); err != nil {
		return err
	}
	return classify(r.remote.Blobs().Push(ctx, n, verified(content, n)), fault.Unavailable, "pushing", r.pin(n))
}

func send(ctx context.Context, src graph.Store, n graph.Node, push func(io.Reader) error) error {
	body, err := src.Fetch(ctx, n)
	if err != nil {
		return err
	}
	defer body.Close()
	return push(verified(body, n))
}

// sleep waits, or returns when the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.Wrap(context.Cause(ctx), fault.Unavailable, "waiting for", "registry")
	}
}
