package registry

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// limits are what a registry is known to refuse only after the bytes were sent. Zero is no limit.
type limits struct {
	layer  int64         // bytes of one blob
	upload time.Duration // of one blob
}

// limitsOf returns the published limits of a host. GHCR's are from docs.github.com, "Working with
// the Container registry", Troubleshooting: 10 GB for each layer, 10 minutes for each upload.
func limitsOf(host string) limits {
	if strings.EqualFold(host, "ghcr.io") {
		return limits{layer: 10e9, upload: 10 * time.Minute}
	}
	return limits{}
}

// checkUpload refuses a blob that the registry would refuse when all of it was sent.
func (c *Client) checkUpload(n graph.Node) error {
	return limitsOf(c.base.Host).check(n, c.meter.fastest())
}

// check refuses a blob that is too large, or that would take too long even at the best rate, in
// bytes per second, seen so far; zero means that none was.
func (l limits) check(n graph.Node, rate float64) error {
	if l.layer > 0 && n.Size > l.layer {
		return tooLarge(n.Digest.String(), "it has %d bytes, and the registry takes layers of at most %d", n.Size, l.layer)
	}
	if l.upload <= 0 || rate <= 0 {
		return nil
	}
	if estimate := time.Duration(float64(n.Size) / rate * float64(time.Second)); estimate > l.upload {
		return tooLarge(n.Digest.String(), "at the %.1f MB/s that the fastest upload of this run reached, its %d bytes take %s, and the registry ends uploads after %s",
			rate/1e6, n.Size, estimate.Round(time.Second), l.upload)
	}
	return nil
}

// explain tells an upload that ran into the registry's limit, which is not worth repeating, from
// one that broke; then it returns nil.
func (l limits) explain(req *http.Request, f failure) error {
	if l.upload <= 0 || f.took < l.upload || rewindable(req) {
		return nil
	}
	return tooLarge(req.URL.Query().Get("digest"), "it took %s, and the registry ends uploads after %s: %w", f.took.Round(time.Second), l.upload, f.err)
}

func tooLarge(blob, format string, args ...any) error {
	return (&fault.Error{Op: "uploading", Subject: blob, Kind: fault.Refused, Err: fmt.Errorf(format, args...)}).
		WithHint("split the layer, make it smaller, or publish from a faster network")
}

// sample is the size from which an upload tells how fast the network is; smaller ones mostly tell
// how far it is.
const sample = 64 << 20

// upload notes how long the upload of one blob took.
func (m *meter) upload(size int64, took time.Duration) {
	if size < sample || took <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rate = max(m.rate, float64(size)/took.Seconds())
}

func (m *meter) fastest() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rate
}
