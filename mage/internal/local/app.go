package local

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the one driver we use registers itself
	"github.com/sirupsen/logrus"

	"github.com/containai/containai/mage/fault"
)

// newApp returns CNCF distribution over a directory. It is the handler alone: the server around it
// in distribution would begin telemetry, health checks and signal handling of its own.
func newApp(root string) (app *handlers.App, err error) {
	// distribution logs every request through logrus' standard logger and offers no other way to
	// say no; nothing else in this program uses logrus.
	logrus.SetLevel(logrus.PanicLevel)
	defer func() {
		if cause := recover(); cause != nil { // distribution reports a bad configuration so
			err = fault.New(fault.Environment, "starting registry in", root, "%v", cause)
		}
	}()
	config := &configuration.Configuration{
		Storage: configuration.Storage{
			"filesystem":  configuration.Parameters{"rootdirectory": root},
			"delete":      configuration.Parameters{"enabled": true},
			"redirect":    configuration.Parameters{"disable": true},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}}, // sweepUploads does it
		},
	}
	config.HTTP.RelativeURLs = true
	config.Catalog.MaxEntries = 1_000
	config.Tags.MaxTags = 1_000
	return handlers.NewApp(context.Background(), config), nil
}

// loopbackHost answers only requests that name this machine, so that a web page whose name was
// pointed at 127.0.0.1 cannot read or write the registry.
func loopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			http.Error(w, "this registry serves its own machine only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// diskReserve is the free space, in bytes, below which a failure is a full disk.
const diskReserve = 1 << 20

// reportFullDisk answers 507 where distribution would say 500 and the disk has no space left.
func reportFullDisk(dir string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		next.ServeHTTP(&diskWriter{ResponseWriter: w, dir: dir}, req)
	})
}

type diskWriter struct {
	http.ResponseWriter
	dir string
}

func (w *diskWriter) WriteHeader(status int) {
	if status == http.StatusInternalServerError && freeSpace(w.dir) < diskReserve {
		status = http.StatusInsufficientStorage
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController through.
func (w *diskWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// freeSpace returns the bytes a user may still write, or more than any disk where it cannot tell.
func freeSpace(dir string) uint64 {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 1 << 62
	}
	return stat.Bavail * uint64(stat.Bsize)
}

// sweepUploads removes uploads that were begun before a time and never ended. What it cannot read
// or remove it leaves for the next start: an old upload does no harm but take space.
func sweepUploads(root string, before time.Time) {
	repositories := filepath.Join(root, "docker", "registry", "v2", "repositories")
	_ = filepath.WalkDir(repositories, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || !entry.IsDir():
			return nil
		case entry.Name() == "_manifests" || entry.Name() == "_layers":
			return fs.SkipDir
		case filepath.Base(filepath.Dir(path)) != "_uploads":
			return nil
		}
		if info, err := entry.Info(); err == nil && info.ModTime().Before(before) {
			os.RemoveAll(path)
		}
		return fs.SkipDir
	})
}

// String names the registry for people.
func (r *Registry) String() string { return fmt.Sprintf("%s (state %s)", r.Host, r.ID) }
