package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix/app"
)

// rekorOrigin names the log in its checkpoints (C2SP tlog-checkpoint), and must be the host of its
// URL in the trusted root. It has no port, so it stays the same in every run.
const rekorOrigin = "rekor.containai.internal"

// rekorKey is the file of the checkpoint key; Rekor reads it by itself.
const rekorKey = "rekor.pem"

// rekor is the running transparency log.
type rekor struct {
	url  string
	done chan struct{} // closed when Rekor has left
	held []io.Closer   // claims on its ports
}

// rekorLimit is how long Rekor may take to start; it needs about 0.1 s.
const rekorLimit = 20 * time.Second

// startRekor runs Rekor's own command in this process and returns when it answers. The command is
// all that Rekor exports (sigstore/rekor-tiles keeps its server internal); it reads os.Args, stops
// at SIGTERM and leaves the process when it cannot start.
func startRekor(ctx context.Context, dir string) (*rekor, error) {
	r := &rekor{done: make(chan struct{})}
	var ports [3]string
	for i := range ports {
		port, claim, err := freePort()
		if err != nil {
			return nil, err
		}
		ports[i], r.held = port, append(r.held, claim)
	}
	r.url = "http://127.0.0.1:" + ports[0]
	os.Args = []string{os.Args[0], "serve",
		"--hostname", rekorOrigin,
		"--storage-dir", filepath.Join(dir, "rekor"),
		"--signer-filepath", filepath.Join(dir, rekorKey),
		"--http-address", "127.0.0.1", "--http-port", ports[0],
		"--grpc-address", "127.0.0.1", "--grpc-port", ports[1],
		"--http-metrics-port", ports[2],
		"--checkpoint-interval", "200ms", "--batch-max-age", "100ms",
		"--log-level", "warn",
	}
	go func() {
		defer close(r.done)
		app.Execute()
	}()
	ctx, cancel := context.WithTimeout(ctx, rekorLimit)
	defer cancel()
	return r, r.await(ctx)
}

// await asks Rekor whether it is healthy until it is.
func (r *rekor) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/healthz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-r.done:
			return errors.New("starting rekor: it left")
		case <-ctx.Done():
			return fmt.Errorf("starting rekor: %w", context.Cause(ctx))
		}
	}
}

// stopLimit is how long Rekor may take to write down its queue; the log survives without.
const stopLimit = 5 * time.Second

// stop ends Rekor the only way it knows.
func (r *rekor) stop() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	select {
	case <-r.done:
	case <-time.After(stopLimit):
	}
	for _, claim := range r.held {
		_ = claim.Close()
	}
}

// Rekor cannot be given a listener, nor port 0. These ports lie below the ones that Linux gives to
// outgoing connections, so that none takes one between our look and Rekor's bind; and another helper
// does not, because it sees the claim.
const firstPort, portCount = 20000, 12000

func freePort() (port string, claim io.Closer, err error) {
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(portCount))
		if err != nil {
			return "", nil, err
		}
		port := strconv.Itoa(firstPort + int(n.Int64()))
		claim, err := claimPort(port)
		if err != nil {
			continue // another helper's
		}
		if listener, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			return port, claim, listener.Close()
		}
		_ = claim.Close()
	}
	return "", nil, errors.New("no free port on 127.0.0.1")
}

// claimPort tells the other helpers of this machine that a port is taken, by a socket of Linux's
// abstract namespace: it is no file and goes with its process. Elsewhere nobody is told.
func claimPort(port string) (io.Closer, error) {
	if runtime.GOOS != "linux" {
		return io.NopCloser(nil), nil
	}
	return net.Listen("unix", "@containai-sigstore-port-"+port)
}
