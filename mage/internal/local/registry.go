package local

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containai/containai/mage/fault"
)

// DefaultAddr is where local:serve listens unless it is told otherwise.
const DefaultAddr = "127.0.0.1:5555"

// Registry is an OCI registry over a state's content: one that this process serves, or one that
// another process of the same state does.
type Registry struct {
	Host  string // host:port
	ID    string // identity of the state behind it
	close func() error
	ended <-chan struct{} // closed when it serves no more; nil for another process' registry
}

// OpenRegistry returns a registry over the state: the one local:serve runs, if it proves to be of
// this state, otherwise one of our own on a free port.
func OpenRegistry(ctx context.Context, s *State) (*Registry, error) {
	if host, ok := announced(ctx, s); ok {
		return &Registry{Host: host, ID: s.ID(), close: func() error { return nil }}, nil
	}
	return start(ctx, s, "127.0.0.1:0")
}

// Serve runs a registry at addr and announces it to the other processes of this state until it is
// closed. There is one at a time; a second is refused with fault.Conflict.
func Serve(ctx context.Context, s *State, addr string) (*Registry, error) {
	unlock, err := takeLock(s.path(serverLock), "serving registry of")
	if err != nil {
		return nil, err
	}
	r, err := start(ctx, s, addr)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	stop := r.close
	r.close = func() error {
		return errors.Join(os.Remove(s.path(serverAddr)), stop(), unlock())
	}
	if err := writeAddr(s, r.Host); err != nil {
		return nil, errors.Join(diskFault(err, "announcing", r.Host), r.close())
	}
	return r, nil
}

// Close stops serving; what is being sent gets a moment to end. Another process' registry stays.
func (r *Registry) Close() error { return r.close() }

// Wait returns when the context ends or the registry stops serving.
func (r *Registry) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.ended:
		return fault.New(fault.Unavailable, "serving", r.Host, "the registry stopped")
	}
}

// The limits of the server.
const (
	headerTimeout = 10 * time.Second
	closeTimeout  = 3 * time.Second
	staleUpload   = 24 * time.Hour // an upload that a killed process left
)

func start(ctx context.Context, s *State, addr string) (*Registry, error) {
	ln, err := listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	sweepUploads(s.RegistryDir(), time.Now().Add(-staleUpload))
	app, err := newApp(s.RegistryDir())
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	server := &http.Server{
		Handler:           loopbackHost(prove(s.secret, reportFullDisk(s.RegistryDir(), app))),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	unused := &unusedConns{open: map[net.Conn]bool{}}
	server.ConnState = unused.track
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ln) // returns ErrServerClosed, or why it cannot accept; Wait tells
	}()
	return &Registry{Host: ln.Addr().String(), ID: s.ID(), ended: ended, close: func() error {
		grace, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		unused.close()
		if err := server.Shutdown(grace); err != nil {
			server.Close()
		}
		<-ended
		return app.Shutdown()
	}}, nil
}

// unusedConns are connections that a client opened and has sent nothing on: clients dial ahead, and
// Shutdown would wait five seconds for each.
type unusedConns struct {
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (u *unusedConns) track(c net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if state == http.StateNew {
		u.open[c] = true
	} else {
		delete(u.open, c)
	}
}

func (u *unusedConns) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.open {
		c.Close()
	}
}

// listen opens a loopback address and nothing else.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	if err := checkLoopback(addr); err != nil {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fault.New(fault.Environment, "listening on", addr, "the port is taken").
			WithHint("stop what listens there, or choose another port: -addr=127.0.0.1:0 takes a free one")
	}
	return ln, fault.Wrap(err, fault.Environment, "listening on", addr)
}

// checkLoopback refuses an address that other machines could reach. A name is refused as well: what
// it stands for is not ours to say.
func checkLoopback(addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fault.New(fault.Invalid, "listening on", addr, "it is not an address like %s", DefaultAddr)
	}
	if !at.Addr().IsLoopback() {
		return fault.New(fault.Invalid, "listening on", addr, "it is not a loopback address").
			WithHint("the embedded registry has no login and serves this machine only; use a real registry for others")
	}
	return nil
}
