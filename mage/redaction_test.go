package mage_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/rehearsal"
)

// F1: tokens, a registry's password and a signing key are planted wherever a run gets them; then
// everything that releases wrote is looked through, also inside of layers, bundles and git's objects:
// what they print, dist/, the state directory, the ledger, a job's outputs and summary, and what was
// sent to the registry and to GitHub. One of the servers repeats what it was shown.
func TestF1NoSecretIsWrittenAnywhere(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("the embedded BuildKit needs root")
	}
	r := newLeakyRun(t)
	t.Run("what is planted is found", r.canaries.areFound)
	t.Run("a job releases to GitHub's registry", func(t *testing.T) {
		out, code := r.mage(t, r.job(t), "release:dev")
		if code != 0 || len(r.mirror.sent) == 0 {
			t.Fatalf("release:dev exits %d after %d writes\n%s", code, len(r.mirror.sent), out)
		}
		r.leaksNothing(t, out)
		signed, kept := counted(out, "statements signed"), counted(out, "bundles stored where GitHub keeps them")
		if signed == "" || signed != kept {
			t.Errorf("%q statements were signed, %q kept by GitHub\n%s", signed, kept, out)
		}
	})
	t.Run("a key signs for the embedded registry", func(t *testing.T) {
		out, code := r.mage(t, append(r.secrets(), "CONTAINAI_FAMILY=keyed.yaml"), "release:dev")
		if code != 0 {
			t.Fatalf("release:dev exits %d\n%s", code, out)
		}
		r.leaksNothing(t, out)
		ledger, err := exec.CommandContext(t.Context(), "git", "-C", filepath.Join(r.dir, ".containai", "ledger.git"), "log", "-p", "--all").Output()
		if err != nil || len(ledger) == 0 {
			t.Fatalf("the ledger has no history: %v", err)
		}
		r.canaries.search().absent(t, "the ledger", ledger)
	})
	for name, c := range map[string]struct {
		path string // where what was shown is repeated
		args []string
		env  []string
		want fault.Kind
	}{
		"the registry repeats the login":         {"/v2/", []string{"release:dev"}, nil, fault.Environment},
		"it does so to a command for scripts":    {"/v2/", []string{"release:status", "-json"}, nil, fault.Environment},
		"its token service repeats the password": {"/token", []string{"release:dev"}, nil, fault.Environment},
		"GitHub repeats the job's token":         {"/repos/", []string{"release:dev", "-until=attest"}, nil, fault.Environment},
		"the issuer of identities repeats it":    {"/oidc/", []string{"release:dev"}, []string{"ACTIONS_ID_TOKEN_REQUEST_URL=" + r.mirror.url + "/oidc/token?v=2"}, fault.Environment},
	} {
		t.Run(name, func(t *testing.T) {
			r.mirror.repeat(c.path)
			defer r.mirror.repeat("")
			out, code := r.mage(t, append(r.job(t), c.env...), c.args...)
			if code != int(c.want) {
				t.Fatalf("mage %v exits %d, want %d\n%s", c.args, code, c.want, out)
			}
			if c.path != "/oidc/" && !strings.Contains(out, "***") {
				t.Errorf("nothing was hidden: the server's words did not arrive\n%s", out)
			}
			r.leaksNothing(t, out)
		})
	}
}

// counted is the number that stands before a word in the output.
func counted(out, word string) string {
	before, _, _ := strings.Cut(out, " "+word)
	fields := strings.Fields(before)
	if before == out || len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}

// leakyRun is the tiny family, and everything that opens something.
type leakyRun struct {
	familyClone
	canaries canaries
	mirror   *mirror
	identity []string // of Sigstore
	key      string   // a file
	docker   string   // Docker's configuration
	files    string   // what a job leaves
	looked   map[string]time.Time
}

func newLeakyRun(t *testing.T) *leakyRun {
	t.Helper()
	r := &leakyRun{familyClone: newFamilyClone(t), canaries: canaries{}, key: filepath.Join(t.TempDir(), "key.pem"), docker: t.TempDir(), files: t.TempDir(), looked: map[string]time.Time{}}
	for _, name := range []string{"GITHUB_TOKEN", "ACTIONS_RUNTIME_TOKEN", "CONTAINAI_SIGNING_KEY_PASSWORD", "password"} {
		var random [12]byte
		_, _ = rand.Read(random[:])
		r.canaries[name] = "canary/" + hex.EncodeToString(random[:]) + "+&<=" // other text in JSON and in a URL
	}
	r.plantKey(t)
	r.identity = startJob(t, r.familyClone, "refs/heads/main")
	for _, variable := range r.identity {
		if name, value, _ := strings.Cut(variable, "="); name == "ACTIONS_ID_TOKEN_REQUEST_TOKEN" {
			r.canaries[name] = value
		}
	}
	r.mirror = newMirror(t, rehearsal.New(rehearsal.Options{Tokens: []rehearsal.Token{
		{Secret: r.canaries["password"], Login: "octocat", Scopes: []string{"write:packages"}},
		{Secret: r.canaries["GITHUB_TOKEN"], Login: "octocat", Repository: "containai/containai", Scopes: []string{"write:packages", "attestations:write"}},
	}}))
	login := base64.StdEncoding.EncodeToString([]byte("octocat:" + r.canaries["password"]))
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, strings.TrimPrefix(r.mirror.url, "http://"), login)
	if err := os.WriteFile(filepath.Join(r.docker, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// plantKey makes a key, and a second family file that trusts it.
func (r *leakyRun) plantKey(t *testing.T) {
	t.Helper()
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	content := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))})
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(private.Public()))})
	if err := os.WriteFile(r.key, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r.canaries["the key"] = strings.Split(string(content), "\n")[1]
	text := string(must(os.ReadFile(filepath.Join(r.dir, "containai.yaml"))))
	text = text[:strings.Index(text, "\ntrust:")] + "\ntrust:\n  instance: key\n  repository: https://github.com/containai/containai\n  key: " + string(must(json.Marshal(string(public)))) + "\n"
	if err := os.WriteFile(filepath.Join(r.dir, "keyed.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.commit(t, "a family of a key")
}

// secrets is everything that opens something.
func (r *leakyRun) secrets() []string {
	env := append(os.Environ(), r.identity...)
	for name, value := range r.canaries {
		if strings.ToUpper(name) == name {
			env = append(env, name+"="+value)
		}
	}
	return append(env, "CONTAINAI_SIGNING_KEY="+r.key, "DOCKER_CONFIG="+r.docker)
}

// job is the environment of a job that a push to main started.
func (r *leakyRun) job(t *testing.T) []string {
	t.Helper()
	commit := git(t, r.dir, "rev-parse", "HEAD")
	event := filepath.Join(t.TempDir(), "event.json")
	payload := `{"ref":"refs/heads/main","repository":{"full_name":"containai/containai","default_branch":"main","private":false}}`
	if err := os.WriteFile(event, []byte(payload), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(r.secrets(),
		"GITHUB_ACTIONS=true", "GITHUB_EVENT_NAME=push", "GITHUB_EVENT_PATH="+event, "GITHUB_REF=refs/heads/main", "GITHUB_SHA="+commit,
		"GITHUB_REPOSITORY=containai/containai", "GITHUB_ACTOR=octocat", "GITHUB_RUN_ID=1001", "GITHUB_API_URL="+r.mirror.url,
		"GITHUB_OUTPUT="+filepath.Join(r.files, "output"), "GITHUB_STEP_SUMMARY="+filepath.Join(r.files, "summary.md"),
		"CONTAINAI_REGISTRY="+strings.TrimPrefix(r.mirror.url, "http://")+"/containai")
}

func (r *leakyRun) mage(t *testing.T, env []string, args ...string) (string, int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), r.binary, args...)
	c.Dir, c.Env = r.dir, env
	out, _ := c.CombinedOutput()
	return string(out), c.ProcessState.ExitCode()
}

// leaksNothing looks at all that there is by now, at a file again when it changed.
func (r *leakyRun) leaksNothing(t *testing.T, out string) {
	t.Helper()
	all := maps.Clone(r.canaries)
	maps.Copy(all, r.mirror.bearers())
	known := all.search()
	known.absent(t, "the output", []byte(out))
	known.absent(t, "what was sent", r.mirror.bodies()...)
	files := 0
	for _, root := range []string{r.dir, r.files} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			files++
			info, err := e.Info()
			if err != nil || r.looked[path] == info.ModTime() {
				return err
			}
			r.looked[path] = info.ModTime()
			content, err := os.ReadFile(path)
			known.absent(t, path, content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 50 {
		t.Errorf("only %d files were looked at", files)
	}
}

// mirror is a server that keeps what it is sent and, below a path, answers with what it was shown.
type mirror struct {
	next http.Handler
	url  string

	mu      sync.Mutex
	repeats string
	shown   map[string]bool // parameters of Authorization headers
	sent    [][]byte
}

func newMirror(t *testing.T, next http.Handler) *mirror {
	m := &mirror{next: next, shown: map[string]bool{}}
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

func (m *mirror) repeat(below string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repeats = below
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := r.Header.Get("Authorization")
	scheme, secret, _ := strings.Cut(header, " ")
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	m.mu.Lock()
	if strings.EqualFold(scheme, "bearer") {
		m.shown[secret] = true
	}
	if len(body) > 0 {
		m.sent = append(m.sent, body)
	}
	repeats := m.repeats != "" && strings.HasPrefix(r.URL.Path, m.repeats) && header != ""
	m.mu.Unlock()
	if !repeats {
		m.next.ServeHTTP(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/repos/") && r.Method == http.MethodGet {
		http.NotFound(w, r) // nothing is kept yet
		return
	}
	_, password, _ := r.BasicAuth()
	said := strings.Join([]string{header, password, url.QueryEscape(secret + password), base64.StdEncoding.EncodeToString([]byte(header)), fmt.Sprintf("%q", header)}, " | ")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(map[string]any{"message": said, "errors": []map[string]any{{"code": "DENIED", "message": said, "detail": said}}})
}

// bearers are the tokens that the registry gave, and a client showed.
func (m *mirror) bearers() canaries {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := canaries{}
	for secret := range m.shown {
		all[fmt.Sprintf("bearer token %d", len(all))] = secret
	}
	return all
}

func (m *mirror) bodies() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sent)
}

// canaries are secrets by their names.
type canaries map[string]string

// forms are how a secret may be written, as a search for it knows them: in base64 at each of the three
// places where it may begin. The tool that hides them is not asked.
func forms(secret string) [][]byte {
	quoted := must(json.Marshal(secret))
	all := [][]byte{[]byte(secret), []byte(url.QueryEscape(secret)), []byte(url.PathEscape(secret)), bytes.Trim(quoted, `"`), []byte(hex.EncodeToString([]byte(secret)))}
	for before := range 3 {
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := e.EncodeToString([]byte("abc"[:before] + secret))
			all = append(all, []byte(text[4:len(text)-4])) // without what its neighbours have a part in
		}
	}
	return all
}

// search looks for every form of every canary in one pass: hundreds of forms, hundreds of megabytes.
type search struct {
	begins [1 << 16]bool // what two bytes any form begins with
	by     map[[prefix]byte][]needle
}

type needle struct {
	name string
	form []byte
}

const prefix = 8 // bytes, which no form is shorter than

func (c canaries) search() *search {
	s := &search{by: map[[prefix]byte][]needle{}}
	for name, secret := range c {
		for _, form := range forms(secret) {
			s.begins[int(form[0])<<8|int(form[1])] = true
			key := [prefix]byte(form)
			s.by[key] = append(s.by[key], needle{name, form})
		}
	}
	return s
}

// in returns the names of those that stand in content, also inside of what is packed there.
func (s *search) in(content []byte) []string {
	found := map[string]bool{}
	for i := 0; i+prefix <= len(content); i++ {
		if !s.begins[int(content[i])<<8|int(content[i+1])] {
			continue
		}
		for _, n := range s.by[[prefix]byte(content[i:])] {
			if bytes.HasPrefix(content[i:], n.form) {
				found[n.name] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(found))
	for _, inner := range unpacked(content) {
		names = append(names, s.in(inner)...)
	}
	return names
}

// unpacked is what a compressed file or a bundle holds.
func unpacked(content []byte) [][]byte {
	var reader io.Reader
	var err error
	switch {
	case bytes.HasPrefix(content, []byte{0x1f, 0x8b}):
		reader, err = gzip.NewReader(bytes.NewReader(content))
	case bytes.HasPrefix(content, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		reader, err = zstd.NewReader(bytes.NewReader(content))
	case bytes.HasPrefix(content, []byte{0x78, 0x01}), bytes.HasPrefix(content, []byte{0x78, 0x9c}):
		reader, err = zlib.NewReader(bytes.NewReader(content))
	case bytes.Contains(content, []byte(`"dsseEnvelope"`)):
		var sent struct{ Bundle json.RawMessage }
		if json.Unmarshal(content, &sent) == nil && len(sent.Bundle) > 0 {
			content = sent.Bundle
		}
		var b struct{ DSSEEnvelope struct{ Payload []byte } }
		if json.Unmarshal(content, &b) == nil {
			return [][]byte{b.DSSEEnvelope.Payload}
		}
	}
	if reader == nil || err != nil {
		return nil
	}
	plain, _ := io.ReadAll(reader) // what is no archive ends early
	return [][]byte{plain}
}

func (s *search) absent(t *testing.T, where string, contents ...[]byte) {
	t.Helper()
	for _, content := range contents {
		if found := s.in(content); len(found) > 0 {
			t.Errorf("%s shows %q", where, found)
		}
	}
}

// areFound holds the search itself: each canary is found in each form, wherever it is packed.
func (c canaries) areFound(t *testing.T) {
	t.Helper()
	s := c.search()
	for name, secret := range c {
		for i, form := range append(forms(secret), []byte(base64.StdEncoding.EncodeToString([]byte("octocat:"+secret)))) {
			line := slices.Concat([]byte("it says "), form, []byte(" and more"))
			var zipped, object bytes.Buffer
			z, o := gzip.NewWriter(&zipped), zlib.NewWriter(&object)
			for _, w := range []io.WriteCloser{z, o} {
				_, _ = w.Write(line)
				_ = w.Close()
			}
			bundle := must(json.Marshal(map[string]any{"bundle": map[string]any{"dsseEnvelope": map[string][]byte{"payload": line}}}))
			for where, content := range map[string][]byte{"text": line, "gzip": zipped.Bytes(), "git": object.Bytes(), "a bundle": bundle} {
				if !slices.Contains(s.in(content), name) {
					t.Errorf("%s is not found in %s, in form %d", name, where, i)
				}
			}
		}
	}
}
