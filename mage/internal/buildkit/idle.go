package buildkit

import (
	"context"
	"errors"
	"sync"
	"time"
)

// defaultIdle is how long the embedded BuildKit waits for more to do before it ends.
const defaultIdle = time.Minute

// embedded is the embedded daemon's life: it runs while there is work and a while longer, and starts
// again when more comes.
type embedded struct {
	mu    sync.Mutex   // held while the daemon starts, works or ends
	stop  func() error // nil when it does not run
	timer *time.Timer  // nil before the first work
	err   error        // of an end that nobody waited for
}

// work has the embedded daemon running until done is called.
func (b *Builder) work(ctx context.Context) (done func(), err error) {
	if b.kind != Embedded {
		return func() {}, nil
	}
	b.daemon.mu.Lock()
	if b.daemon.timer != nil {
		b.daemon.timer.Stop()
	}
	if b.daemon.stop == nil {
		if _, err := b.startDaemon(ctx); err != nil {
			_ = b.daemon.halt() // why it did not start is what matters
			b.daemon.mu.Unlock()
			return nil, err
		}
	}
	return func() {
		b.daemon.rest(b.options.Idle)
		b.daemon.mu.Unlock()
	}, nil
}

// rest ends the daemon after a while without work.
func (d *embedded) rest(idle time.Duration) {
	d.timer = time.AfterFunc(idle, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = errors.Join(d.err, d.halt())
	})
}

// halt ends the daemon if it runs. The caller holds the lock.
func (d *embedded) halt() error {
	if d.stop == nil {
		return nil
	}
	stop := d.stop
	d.stop = nil
	return stop()
}

// close ends the daemon for good.
func (d *embedded) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	return errors.Join(d.err, d.halt())
}
