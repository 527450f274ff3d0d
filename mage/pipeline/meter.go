package pipeline

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/containai/containai/mage/graph"
)

// Meter is a Progress that also takes how many bytes of a subject went over the wire so far.
type Meter interface {
	Sent(stage, subject string, bytes int64)
}

// meterStep is how many bytes are sent between two words about it.
const meterStep = 4 << 20

// metered is the layout, telling the progress what is read of it for a subject.
func (p *Pipeline) metered(stage, subject string) graph.Store {
	meter, ok := p.Progress.(Meter)
	if !ok {
		return p.Layout
	}
	return &meteredStore{Store: p.Layout, tell: func(bytes int64) { meter.Sent(stage, subject, bytes) }}
}

type meteredStore struct {
	graph.Store
	sent atomic.Int64
	tell func(bytes int64)
}

func (s *meteredStore) Fetch(ctx context.Context, n graph.Node) (io.ReadCloser, error) {
	content, err := s.Store.Fetch(ctx, n)
	if err != nil {
		return nil, err
	}
	return &meteredContent{content, s}, nil
}

type meteredContent struct {
	io.ReadCloser
	store *meteredStore
}

func (c *meteredContent) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	if sent := c.store.sent.Add(int64(n)); sent/meterStep != (sent-int64(n))/meterStep {
		c.store.tell(sent)
	}
	return n, err
}
