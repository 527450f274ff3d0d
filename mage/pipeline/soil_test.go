package pipeline_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containai/containai/mage/internal/local"
	"github.com/containai/containai/mage/rehearsal"
)

// soil is a registry of which any number can be had as it once was.
type soil interface {
	again(t testing.TB) planted
}

// planted is one of them.
type planted struct {
	http.Handler
	state func() string // everything that is in it, to the byte; what nobody finished is not
}

const onDisk = "the embedded registry"

// soils are the registries that channels are tested on.
func soils() map[string]func(t testing.TB) (http.Handler, func() soil) {
	return map[string]func(t testing.TB) (http.Handler, func() soil){
		"the rehearsal of GHCR": func(t testing.TB) (http.Handler, func() soil) {
			r := &recorder{Handler: rehearsal.New(rehearsal.Options{})}
			return r, func() soil { return r }
		},
		onDisk: func(t testing.TB) (http.Handler, func() soil) {
			dir := t.TempDir()
			registry, stop := serveState(t, dir)
			return registry, func() soil { stop(); return directory(dir) }
		},
	}
}

// recorder keeps what is written to a registry in memory, to write it to another.
type recorder struct {
	http.Handler
	mu     sync.Mutex
	writes []*http.Request
	bodies [][]byte
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		r.Handler.ServeHTTP(w, req)
		return
	}
	content, err := io.ReadAll(req.Body)
	if err != nil {
		return // whoever asked has gone
	}
	req.Body = io.NopCloser(bytes.NewReader(content))
	r.mu.Lock()
	r.writes, r.bodies = append(r.writes, req), append(r.bodies, content)
	r.mu.Unlock()
	r.Handler.ServeHTTP(w, req)
}

func (r *recorder) again(t testing.TB) planted {
	t.Helper()
	github := rehearsal.New(rehearsal.Options{})
	send := func(method, target string, header http.Header, content []byte) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, target, bytes.NewReader(content))
		req.Header = header.Clone()
		answer := httptest.NewRecorder()
		github.ServeHTTP(answer, req)
		if answer.Code >= 300 {
			t.Fatalf("writing again: %s %s: %d %s", method, target, answer.Code, answer.Body)
		}
		return answer
	}
	for i, w := range r.writes {
		repo, _, upload := strings.Cut(w.URL.Path, "/blobs/uploads/")
		switch {
		case w.Method == http.MethodPost && w.URL.Query().Get("mount") == "": // its upload begins when it ends
		case w.Method == http.MethodPut && upload:
			begun := send(http.MethodPost, repo+"/blobs/uploads/", http.Header{}, nil)
			at, err := url.Parse(begun.Header().Get("Location"))
			if err != nil {
				t.Fatal(err)
			}
			query := at.Query()
			query.Set("digest", w.URL.Query().Get("digest"))
			at.RawQuery = query.Encode()
			send(http.MethodPut, at.RequestURI(), w.Header, r.bodies[i])
		case w.Method == http.MethodPatch:
			t.Fatal("a blob was sent in chunks: nobody can write that again yet")
		default:
			send(w.Method, w.URL.RequestURI(), w.Header, r.bodies[i])
		}
	}
	return planted{github, func() string { return string(github.Snapshot()) }}
}

// directory is the state of an embedded registry that nobody serves.
type directory string

func (d directory) again(t testing.TB) planted {
	t.Helper()
	to := t.TempDir()
	if err := copyState(string(d), to); err != nil {
		t.Fatal(err)
	}
	served, _ := serveState(t, to)
	return planted{served, func() string { return listState(t, to) }}
}

// serveState serves an embedded registry past a handler that tests can stand before.
func serveState(t testing.TB, dir string) (registry http.Handler, stop func()) {
	t.Helper()
	state, err := local.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	served, err := local.OpenRegistry(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := served.Close(); err != nil {
			t.Error(err)
		}
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: served.Host})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 16}
	return proxy, stop
}

// copyState copies a state. Blobs, which nobody rewrites, are shared by hard links.
func copyState(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case entry.Name() == "_uploads":
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o700)
		case entry.Name() == "data":
			return os.Link(path, target)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o600)
	})
}

// listState lists the files of an embedded registry: blobs by their name, which is their digest, and
// links with the digest in them.
func listState(t testing.TB, dir string) string {
	t.Helper()
	var lines strings.Builder
	root := filepath.Join(dir, "registry")
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() == "_uploads" {
			return cmp.Or(err, fs.SkipDir)
		}
		if entry.IsDir() {
			return nil
		}
		content := []byte(nil)
		if entry.Name() == "link" {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(&lines, "%s %s\n", strings.TrimPrefix(path, root), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines.String()
}
