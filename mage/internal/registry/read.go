package registry

import (
	"errors"
	"fmt"
	"io"

	"oras.land/oras-go/v2/content"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// verified returns a reader that gives the content of n and fails, instead of ending, when it is
// shorter, longer or other than n says. It fails before it gives the last of it: whoever is sent
// wrong content, on a disk or over the wire, is never sent all of it.
func verified(body io.Reader, n graph.Node) *verifiedReader {
	if v, ok := body.(*verifiedReader); ok && v.node.Digest == n.Digest && v.node.Size == n.Size {
		return v // the source checks already: hashing twice proves nothing more
	}
	closer, ok := body.(io.Closer)
	if !ok {
		closer = io.NopCloser(body)
	}
	return &verifiedReader{node: n, body: closer, check: content.NewVerifyReader(body, n), left: n.Size, subject: n.Digest.String()}
}

type verifiedReader struct {
	node    graph.Node
	body    io.Closer
	check   *content.VerifyReader
	left    int64  // bytes that are not read yet
	subject string // what is read, as an error names it
	hint    string // what to do when it is other than it should be
}

// of says where the content is from, and what to do when it is wrong.
func (v *verifiedReader) of(subject, hint string) *verifiedReader {
	v.subject, v.hint = subject, hint
	return v
}

func (v *verifiedReader) Read(p []byte) (int, error) {
	n, err := v.check.Read(p)
	v.left -= int64(n)
	switch {
	case err == nil && v.left > 0:
		return n, nil
	case err == nil || err == io.EOF:
		if wrong := v.check.Verify(); wrong != nil {
			return 0, v.forged(wrong)
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, v.forged(fmt.Errorf("it ends before byte %d: %w", v.node.Size, err))
	}
	return n, err
}

func (v *verifiedReader) Close() error { return v.body.Close() }

// forged says that content is wrong, unless it only broke off on its way.
func (v *verifiedReader) forged(err error) error {
	if errors.Is(err, errBroken) {
		return err
	}
	return &fault.Error{Op: "reading", Subject: v.subject, Kind: fault.Forged, Hint: v.hint, Err: err}
}

// wire is a body on its way: when its connection ends, that is the network's fault and may be
// tried again, not content that is other than it should be.
type wire struct {
	io.ReadCloser
	subject string
}

func (w wire) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = &fault.Error{Op: "fetching", Subject: w.subject, Kind: fault.Unavailable, Err: fmt.Errorf("%w: %w", errBroken, printable(err)),
			Hint: "check the network; running the same command again is safe"}
	}
	return n, err
}
