// Package artifacts_test drives what goes into the artifacts as a user's machine does: the
// installer against a real registry, by every shell that claims to be POSIX.
package artifacts_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/release"
)

// shells are how the installer must run. Busybox brings its own awk, tar, gzip, sed and find.
var shells = map[string][]string{
	"dash":    {"dash"},
	"bash":    {"bash", "--posix"},
	"busybox": {"busybox", "sh"},
}

func TestInstallerInstallsUpdatesRollsBackAndUninstalls(t *testing.T) {
	for name := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRegistry(t), newMachine(t, name)
			first := r.publish(1, tree("one"), nil)
			m.want(0, r, "--channel", "dev")
			m.wantCurrent(first, "one")

			m.want(0, r) // the channel is remembered, and there is nothing to do
			m.wantCurrent(first, "one")
			second := r.publish(2, tree("two"), nil)
			m.want(0, r)
			m.wantCurrent(second, "two")
			third := r.publish(3, tree("three"), nil)
			m.want(0, r)
			m.wantCurrent(third, "three")
			if got := m.versions(); len(got) != 2 {
				t.Errorf("versions kept = %v, want the current and the previous one", got)
			}

			m.want(0, r, "--rollback")
			m.wantCurrent(second, "two")
			m.want(0, r, "--rollback")
			m.wantCurrent(third, "three")
			if out := m.want(0, r, "--status"); !strings.Contains(out, third.String()) {
				t.Errorf("status = %q, want %s in it", out, third)
			}
			m.want(0, r, "--uninstall")
			if left, _ := os.ReadDir(m.prefix); len(left) > 0 {
				t.Errorf("uninstall left %v", left)
			}
			if left, _ := os.ReadDir(m.bin); len(left) > 0 {
				t.Errorf("uninstall left links %v", left)
			}
		})
	}
}

func TestInstallerBringsItsOwnUpdater(t *testing.T) {
	r, m := newRegistry(t), newMachine(t, "dash")
	files := tree("one")
	updater, err := os.ReadFile("payload/bin/containai-update")
	if err != nil {
		t.Fatal(err)
	}
	files["bin/containai-update"] = string(updater)
	r.publish(1, files, nil)
	m.want(0, r, "--channel", "dev")
	second := r.publish(2, tree("two"), nil)
	cmd := exec.CommandContext(t.Context(), filepath.Join(m.bin, "containai-update"))
	cmd.Env = m.env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("containai-update: %v\n%s", err, out)
	}
	m.wantCurrent(second, "two")
}

func TestInstallerAsksForAnAnonymousToken(t *testing.T) {
	for name := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRegistry(t), newMachine(t, name)
			want := r.publish(1, tree("one"), nil)
			r.tokens.Store(true)
			m.want(0, r, "--channel", "dev")
			m.wantCurrent(want, "one")
		})
	}
}

// Every refusal leaves the version that was there, and says with its status what was wrong.
func TestInstallerRefuses(t *testing.T) {
	refusals := map[string]struct {
		archive func([]member) []member     // changes the archive's members
		change  func(*release.Document)     // changes the channels document
		answer  func(string, []byte) []byte // changes what the registry answers for a path
		status  fault.Kind
	}{
		"a payload blob with other bytes":   {answer: flip("/blobs/", "payload"), status: fault.Forged},
		"a payload manifest of other bytes": {answer: flip("/manifests/sha256:", "payload"), status: fault.Forged},
		"an installer with other bytes":     {answer: flip("/blobs/", "installer"), status: fault.Forged},
		"a document with other bytes":       {answer: flip("/blobs/", "metadata"), status: fault.Forged},
		"an expired document":               {change: func(d *release.Document) { d.Expires = time.Now().Add(-time.Minute).UTC().Truncate(time.Second) }, status: fault.Forged},
		"another family's document":         {change: func(d *release.Document) { d.Family = "other" }, status: fault.Forged},
		"a document of another schema":      {change: func(d *release.Document) { d.Schema = 2 }, status: fault.Forged},
		"an older generation":               {change: func(d *release.Document) { d.Generation = 1 }, status: fault.Conflict},
		"a channel that serves nothing":     {change: func(d *release.Document) { delete(d.Channels, "dev") }, status: fault.Conflict},
		"a member without a digest":         {change: func(d *release.Document) { d.Channels["dev"].Members["containai-payload"] = "latest" }, status: fault.Forged},
		"a commit that is none":             {change: func(d *release.Document) { s := d.Channels["dev"]; s.Commit = "$(id)"; d.Channels["dev"] = s }, status: fault.Forged},
		"a missing payload":                 {answer: drop("/containai-payload/manifests/"), status: fault.Unverified},
		"a file that was changed":           {archive: replace("bin/containai", member{content: "evil"}), status: fault.Forged},
		"a file that is not listed":         {archive: add(member{name: "bin/extra", content: "x"}), status: fault.Forged},
		"a listed file that is missing":     {archive: func(m []member) []member { return m[1:] }, status: fault.Forged},
		"no list of files":                  {archive: func(m []member) []member { return m[:len(m)-1] }, status: fault.Forged},
		"a member outside":                  {archive: add(member{name: "../outside", content: "x"}), status: fault.Forged},
		"a member outside, deep":            {archive: add(member{name: "bin/../../outside", content: "x"}), status: fault.Forged},
		"an absolute member":                {archive: add(member{name: "/tmp/outside", content: "x"}), status: fault.Forged},
		"a symbolic link":                   {archive: add(member{name: "link", kind: tar.TypeSymlink, target: "/etc"}), status: fault.Forged},
		"a hard link":                       {archive: add(member{name: "link", kind: tar.TypeLink, target: "bin/containai"}), status: fault.Forged},
		"a named pipe":                      {archive: add(member{name: "pipe", kind: tar.TypeFifo}), status: fault.Forged},
		"a name with a line break":          {archive: add(member{name: "a\nb", content: "x"}), status: fault.Forged},
		"a name that is an option":          {archive: add(member{name: "--checkpoint", content: "x"}), status: fault.Forged},
		"an archive that unpacks to 65 MiB": {archive: add(member{name: "big", content: strings.Repeat("0", 65<<20)}), status: fault.Forged},
	}
	for name, c := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := newRegistry(t), newMachine(t, "dash")
			good := r.publish(2, tree("good"), nil)
			m.want(0, r, "--channel", "dev")

			r.archive = c.archive
			if c.answer != nil {
				r.answer.Store(&c.answer)
			}
			r.publish(3, tree("bad"), c.change)
			m.want(int(c.status), r)
			m.wantCurrent(good, "good")
			if left, _ := filepath.Glob(filepath.Join(m.prefix, ".*")); len(left) != 1 { // the marker
				t.Errorf("a refusal left %v", left)
			}
		})
	}
}

// What the parser of JSON refuses, by each awk there is.
func TestInstallerReadsJSONStrictly(t *testing.T) {
	documents := map[string]string{
		"a duplicate key":        `{"schema":1,"schema":1}`,
		"a key with an escape":   `{"sch\u0065ma":1}`,
		"a truncated document":   `{"schema":1`,
		"more after the end":     `{} {}`,
		"a comma too many":       `{"schema":1,}`,
		"a bare word":            `{"schema":yes}`,
		"a control character":    "{\"schema\":\"\x01\"}",
		"a raw line break":       "{\"schema\":\"a\nb\"}",
		"deep nesting":           strings.Repeat("[", 50) + strings.Repeat("]", 50),
		"a number with a zero":   `{"schema":01}`,
		"nothing":                ``,
		"more than 256 KiB":      `{"schema":"` + strings.Repeat("x", 256<<10) + `"}`,
		"a key that is a path":   `{"schema":1,"family":"containai","channels/dev/commit":"x"}`,
		"a manifest of no layer": `{"schema":1,"family":"containai","generation":9,"expires":"2999-01-01T00:00:00Z","channels":{}}`,
	}
	for _, shell := range slices.Sorted(maps.Keys(shells)) {
		for name, document := range documents {
			t.Run(shell+"/"+name, func(t *testing.T) {
				t.Parallel()
				r, m := newRegistry(t), newMachine(t, shell)
				r.tag("containai-metadata", release.ChannelsTag, r.artifact(family.Metadata, "containai-metadata", []byte(document)))
				if m.run(r, "--channel", "dev") == 0 {
					t.Errorf("install.sh accepted %.80q", document)
				}
			})
		}
	}
}

func TestInstallerRefusesWrongArguments(t *testing.T) {
	m := newMachine(t, "dash")
	for _, args := range [][]string{
		{"--nonsense"}, {"--channel"}, {"--channel", "Dev"}, {"--channel", "a/b"}, {"--channel", "a\nb"},
		{"--registry", "no-owner"}, {"--registry", "host/../x"}, {"--registry", "https://host/owner"}, {"--prefix", "relative"}, {"--prefix", "/"},
	} {
		m.want(int(fault.Invalid), nil, args...)
	}
}

func TestInstallerKeepsTheUsersOwnFiles(t *testing.T) {
	r, m := newRegistry(t), newMachine(t, "dash")
	mine := filepath.Join(m.bin, "containai")
	if err := errors.Join(os.MkdirAll(m.bin, 0o755), os.WriteFile(mine, []byte("mine"), 0o755)); err != nil {
		t.Fatal(err)
	}
	r.publish(1, tree("one"), nil)
	m.want(0, r, "--channel", "dev")
	m.want(0, r, "--uninstall")
	if got, err := os.ReadFile(mine); err != nil || string(got) != "mine" {
		t.Errorf("the user's file = %q, %v", got, err)
	}
}

func TestInstallersExcludeEachOther(t *testing.T) {
	r, m := newRegistry(t), newMachine(t, "dash")
	r.publish(1, tree("one"), nil)
	m.want(0, r, "--channel", "dev")
	lock := filepath.Join(m.prefix, ".lock")
	if err := os.Symlink(fmt.Sprint(os.Getpid()), lock); err != nil {
		t.Fatal(err)
	}
	m.want(int(fault.Conflict), r)
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(lock), os.Symlink(fmt.Sprint(gone.Process.Pid), lock)); err != nil {
		t.Fatal(err)
	}
	m.want(0, r) // the lock of a process that is gone
}

// --- a machine ----------------------------------------------------------------------------------

// machine is a user's home directory and the shell that runs the installer.
type machine struct {
	t           *testing.T
	shell, env  []string
	prefix, bin string
}

func newMachine(t *testing.T, shell string) *machine {
	t.Helper()
	for _, tool := range []string{shells[shell][0], "curl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
	home := t.TempDir()
	path := os.Getenv("PATH")
	if shell == "busybox" {
		path = applets(t)
	}
	return &machine{
		t: t, shell: shells[shell], prefix: filepath.Join(home, "prefix"), bin: filepath.Join(home, "bin"),
		env: []string{"HOME=" + home, "PATH=" + path, "work=" + home}, // a variable of ours must not lead the script astray
	}
}

// applets is a PATH of busybox's own tools and curl.
func applets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	curl, err := exec.LookPath("curl")
	if err == nil {
		err = exec.CommandContext(t.Context(), "busybox", "--install", "-s", dir).Run()
	}
	if err == nil {
		err = os.Symlink(curl, filepath.Join(dir, "curl"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs the installer and returns its exit status.
func (m *machine) run(r *testRegistry, args ...string) int {
	status, _ := m.output(r, args...)
	return status
}

func (m *machine) output(r *testRegistry, args ...string) (int, string) {
	m.t.Helper()
	script, err := filepath.Abs("installer/install.sh")
	if err != nil {
		m.t.Fatal(err)
	}
	all := append(slices.Clone(m.shell[1:]), script, "--prefix", m.prefix, "--bin", m.bin)
	if r != nil {
		all = append(all, "--registry", r.name)
	}
	shell, err := exec.LookPath(m.shell[0])
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.CommandContext(m.t.Context(), shell, append(all, args...)...)
	cmd.Env = m.env
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// want runs the installer, compares its exit status and returns its output.
func (m *machine) want(status int, r *testRegistry, args ...string) string {
	m.t.Helper()
	got, out := m.output(r, args...)
	if got != status {
		m.t.Fatalf("install.sh %q = %d, want %d\n%s", args, got, status, out)
	}
	return out
}

// wantCurrent compares the current version and what its command, linked into bin, prints.
func (m *machine) wantCurrent(want digest.Digest, says string) {
	m.t.Helper()
	link, err := os.Readlink(filepath.Join(m.prefix, "current"))
	if err != nil || link != "versions/"+want.Encoded() {
		m.t.Errorf("current = %q, %v; want %s", link, err, want)
	}
	out, err := exec.CommandContext(m.t.Context(), filepath.Join(m.bin, "containai")).Output()
	if err != nil || strings.TrimSpace(string(out)) != says {
		m.t.Errorf("containai prints %q, %v; want %q", out, err, says)
	}
}

func (m *machine) versions() []string {
	names, err := filepath.Glob(filepath.Join(m.prefix, "versions", "*"))
	if err != nil {
		m.t.Fatal(err)
	}
	return names
}

// --- a registry ---------------------------------------------------------------------------------

// testRegistry is go-containerregistry's registry, behind what may go wrong on the way.
type testRegistry struct {
	t       *testing.T
	name    string // host:port/owner
	serve   http.Handler
	tokens  atomic.Bool                                 // ask for anonymous tokens, as GHCR does
	answer  atomic.Pointer[func(string, []byte) []byte] // changes an answer; nil means 404
	archive func([]member) []member                     // changes the members of the next payload
}

func newRegistry(t *testing.T) *testRegistry {
	r := &testRegistry{t: t, serve: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.name = strings.TrimPrefix(server.URL, "http://") + "/containai"
	return r
}

func (r *testRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	answer := r.answer.Load()
	reads := req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/v2/")
	switch {
	case req.URL.Path == "/token":
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token(req.URL.Query().Get("scope")))
	case r.tokens.Load() && reads && req.Header.Get("Authorization") != "Bearer "+token(scope(req.URL.Path)):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=%q,scope=%q", "http://"+req.Host+"/token", req.Host, scope(req.URL.Path)))
		w.WriteHeader(http.StatusUnauthorized)
	case reads && answer != nil:
		seen := httptest.NewRecorder()
		r.serve.ServeHTTP(seen, req)
		if content := (*answer)(req.URL.Path, seen.Body.Bytes()); content != nil {
			w.WriteHeader(seen.Code)
			w.Write(content)
			return
		}
		http.NotFound(w, req)
	default:
		r.serve.ServeHTTP(w, req)
	}
}

// scope names the repository of a path, as the distribution's token specification wants it.
func scope(path string) string {
	repo, _, _ := strings.Cut(strings.TrimPrefix(path, "/v2/"), "/manifests/")
	repo, _, _ = strings.Cut(repo, "/blobs/")
	return "repository:" + strings.ReplaceAll(repo, ":", "_") + ":pull"
}

// token is good for one scope.
func token(scope string) string { return base64.StdEncoding.EncodeToString([]byte(scope)) }

// publish releases a payload to the dev channel and returns the payload's digest.
func (r *testRegistry) publish(generation uint64, files map[string]string, change func(*release.Document)) digest.Digest {
	r.t.Helper()
	script, err := os.ReadFile("installer/install.sh")
	if err != nil {
		r.t.Fatal(err)
	}
	payload := r.artifact(family.Payload, "containai-payload", r.pack(files))
	installer := r.artifact(family.Installer, "containai-installer", script)
	now := time.Now().UTC().Truncate(time.Second)
	d := release.Document{
		Schema: 1, Family: "containai", Generation: generation, Issued: now, Expires: now.Add(time.Hour),
		Channels: map[string]release.State{"dev": {
			Generation: generation, Commit: strings.Repeat("a", 40), Record: payload,
			Members: map[string]digest.Digest{"containai-payload": payload, "containai-installer": installer},
			Moved:   release.Moved{By: "a \"quoted\" person", Reason: "a\ttest", At: now},
		}},
	}
	if generation > 1 {
		d.Previous = digest.FromString("the document before")
	}
	if change != nil {
		change(&d)
	}
	content, err := d.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	r.tag("containai-metadata", release.ChannelsTag, r.artifact(family.Metadata, "containai-metadata", content))
	return payload
}

// artifact pushes an artifact by digest.
func (r *testRegistry) artifact(kind family.Kind, repo string, content []byte) digest.Digest {
	r.t.Helper()
	artifactType, layerType := kind.Types()
	layer := graph.NewNode(layerType, content)
	for _, blob := range [][]byte{content, ocispec.DescriptorEmptyJSON.Data} {
		r.send(http.MethodPost, repo, "/blobs/uploads/?digest="+digest.FromBytes(blob).String(), "application/octet-stream", blob)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	d := digest.FromBytes(manifest)
	r.send(http.MethodPut, repo, "/manifests/"+d.String(), ocispec.MediaTypeImageManifest, manifest)
	return d
}

// tag gives a name to what was pushed by digest.
func (r *testRegistry) tag(repo, tag string, d digest.Digest) {
	r.t.Helper()
	seen := httptest.NewRecorder()
	r.serve.ServeHTTP(seen, httptest.NewRequest(http.MethodGet, "/v2/containai/"+repo+"/manifests/"+d.String(), nil))
	r.send(http.MethodPut, repo, "/manifests/"+tag, ocispec.MediaTypeImageManifest, seen.Body.Bytes())
}

func (r *testRegistry) send(method, repo, path, mediaType string, content []byte) {
	r.t.Helper()
	req := httptest.NewRequestWithContext(context.Background(), method, "/v2/containai/"+repo+path, bytes.NewReader(content))
	req.Header.Set("Content-Type", mediaType)
	seen := httptest.NewRecorder()
	r.serve.ServeHTTP(seen, req)
	if seen.Code != http.StatusCreated {
		r.t.Fatalf("%s %s = %d: %s", method, path, seen.Code, seen.Body)
	}
}

// --- a payload ----------------------------------------------------------------------------------

// tree is a small payload whose command says who it is.
func tree(says string) map[string]string {
	return map[string]string{
		"bin/containai": "#!/bin/sh\necho " + says + "\n",
		"profile.env":   "CONTAINAI_COMMIT=" + strings.Repeat("a", 40) + "\n",
		"VERSION":       "1.0.0\n",
	}
}

type member struct {
	name, content, target string
	kind                  byte // tar.TypeReg if zero
}

// pack makes an archive as the library does: sorted, with the list of its files at the end.
func (r *testRegistry) pack(files map[string]string) []byte {
	r.t.Helper()
	var sums strings.Builder
	var members []member
	for _, name := range slices.Sorted(maps.Keys(files)) {
		members = append(members, member{name: name, content: files[name]})
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte(files[name])), name)
	}
	members = append(members, member{name: "SHA256SUMS", content: sums.String()})
	if r.archive != nil {
		members = r.archive(members)
	}
	var out bytes.Buffer
	gz := gzip.NewWriter(&out)
	w := tar.NewWriter(gz)
	for _, m := range members {
		mode := int64(0o644)
		if strings.HasPrefix(m.name, "bin/") {
			mode = 0o755
		}
		err := w.WriteHeader(&tar.Header{Name: m.name, Typeflag: max(m.kind, tar.TypeReg), Linkname: m.target, Size: int64(len(m.content)), Mode: mode})
		if err == nil {
			_, err = io.WriteString(w, m.content)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		r.t.Fatal(err)
	}
	return out.Bytes()
}

func add(m member) func([]member) []member {
	return func(members []member) []member { return append([]member{m}, members...) }
}

func replace(name string, with member) func([]member) []member {
	return func(members []member) []member {
		for i := range members {
			if members[i].name == name {
				with.name = name
				members[i] = with
			}
		}
		return members
	}
}

// flip changes one byte of what a member's repository answers below a path.
func flip(path, member string) func(string, []byte) []byte {
	return func(asked string, content []byte) []byte {
		if !strings.Contains(asked, "containai-"+member+path) || len(content) == 0 {
			return content
		}
		content = bytes.Clone(content)
		content[len(content)/2] ^= 1
		return content
	}
}

// drop answers that there is nothing at a path.
func drop(path string) func(string, []byte) []byte {
	return func(asked string, content []byte) []byte {
		if strings.Contains(asked, path) {
			return nil
		}
		return content
	}
}
