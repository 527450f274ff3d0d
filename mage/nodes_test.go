package mage_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/buildkit"
)

// TestTwoNodesBuildOnePlatformEach builds the tiny family with a Buildx builder of two BuildKits that
// are reached over TLS with client certificates. Each builds its own platform alone; one that dies in
// the middle is named, and the next run continues from what was cached.
func TestTwoNodesBuildOnePlatformEach(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("BuildKit needs root")
	}
	origin := newPlatformClone(t)
	gate := newGate(t, "aarch64")
	replace(t, filepath.Join(origin.dir, "images", "agent", "Dockerfile"), "RUN --network=none", "RUN wget -q -O- "+gate.url+"/$(uname -m)\nRUN --network=none")
	origin.commit(t, "a step that asks the test")
	f := origin.again(t)
	f.emulate(t, "linux/arm64")
	nodes := newNodes(t, "amd64", "arm64")
	const platforms = "linux/amd64,linux/arm64"

	t.Run("a client without a certificate is refused", func(t *testing.T) {
		if err := nodes.all["amd64"].greet(t, nodes.authority); err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("the daemon says %v", err)
		}
		nodes.create(t, "stranger", "amd64", "cacert="+nodes.authority)
		f.fails(t, fault.Environment, "it takes the builder's certificate", nodes.env("stranger", "linux/amd64"), "build:all")
	})
	t.Run("a node that dies in the middle is named", func(t *testing.T) {
		go func() {
			<-gate.reached
			nodes.all["arm64"].kill()
		}()
		out := f.fails(t, fault.Unavailable, "start BuildKit on node arm64 again", nodes.env("pair", platforms), "build:all")
		if want := "node arm64 at tcp://" + nodes.all["arm64"].address + " went away"; !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	})
	t.Run("the next run continues from cache", func(t *testing.T) {
		gate.open()
		nodes.all["arm64"].start(t)
		f.with(t, nodes.env("pair", platforms), "build:all")
		for _, step := range []string{"tiny-base linux/amd64", "tiny-base linux/arm64"} {
			if !f.cached(t, step, "uname -m") {
				t.Errorf("%s did not come from cache:\n%s", step, f.file(t, "events.jsonl"))
			}
		}
		if f.cached(t, "tiny-agent linux/arm64", "wget") {
			t.Error("the step that was killed came from cache")
		}
	})
	t.Run("each built its own platform alone", func(t *testing.T) {
		for _, name := range []string{"amd64", "arm64"} {
			built := nodes.built(t, name)
			if len(built) < 4 || slices.ContainsFunc(built, func(p string) bool { return p != "linux/"+name }) {
				t.Errorf("node %s built %v, want four images for its platform alone", name, built)
			}
		}
	})
}

// cached looks through the recorded events for a step that ended, and whether it came from cache.
func (f familyClone) cached(t *testing.T, where, step string) bool {
	t.Helper()
	found := false
	for line := range strings.Lines(f.file(t, "events.jsonl")) {
		var e struct{ Detail string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if strings.HasPrefix(e.Detail, where) && strings.Contains(e.Detail, step) {
			found = found || strings.HasSuffix(e.Detail, "(cached)")
		}
	}
	return found
}

// gate is a web page that a build step asks for. One machine has to wait until it is opened.
type gate struct {
	url     string
	reached chan struct{} // closed when the machine asked that has to wait
	opened  chan struct{}
}

func newGate(t *testing.T, waits string) *gate {
	t.Helper()
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/"+waits {
			return
		}
		if !asked {
			asked = true
			close(g.reached)
		}
		select {
		case <-g.opened:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

func (g *gate) open() { close(g.opened) }

// nodes are BuildKits on the loopback, one for an architecture, and the Buildx that joins them.
type nodes struct {
	all                                      map[string]*nodeDaemon
	authority, certificate, key, config, bin string
}

func newNodes(t *testing.T, architectures ...string) *nodes {
	t.Helper()
	dir, cache := t.TempDir(), userPrograms(t)
	n := &nodes{all: map[string]*nodeDaemon{}, config: filepath.Join(dir, "buildx"), authority: filepath.Join(dir, "authority.pem")}
	ca := newAuthority(t, n.authority)
	serverCertificate, serverKey := ca.issue(t, dir, "server")
	n.certificate, n.key = ca.issue(t, dir, "client")
	daemon, err := buildkit.Daemon().Build(t.Context(), cache, nil)
	if err == nil {
		n.bin, err = buildkit.Buildx().Build(t.Context(), cache, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, architecture := range architectures {
		d := &nodeDaemon{program: daemon, dir: filepath.Join(dir, architecture), address: freeAddress(t), cgroup: fmt.Sprintf("containai-test-%d-%s", os.Getpid(), architecture)}
		d.configure(t, architecture, n.authority, serverCertificate, serverKey)
		d.start(t)
		n.all[architecture] = d
		n.create(t, "pair", architecture, "cacert="+n.authority+",cert="+n.certificate+",key="+n.key)
	}
	return n
}

// create adds a node to a builder. --platform is what makes Buildx prefer a node that runs a platform
// over one that emulates it.
func (n *nodes) create(t *testing.T, builder, architecture, options string) {
	t.Helper()
	args := []string{"create", "--name", builder, "--driver", "remote", "--driver-opt", options, "--node", architecture, "--platform", "linux/" + architecture}
	if _, err := os.Stat(filepath.Join(n.config, "instances", builder)); err == nil {
		args = append(args, "--append")
	}
	n.buildx(t, append(args, "tcp://"+n.all[architecture].address)...)
}

func (n *nodes) buildx(t *testing.T, args ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), n.bin, args...)
	c.Env = append(os.Environ(), "BUILDX_CONFIG="+n.config)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("buildx %v: %v\n%s", args, err, out)
	}
	return out
}

func (n *nodes) env(builder, platforms string) []string {
	return []string{"CONTAINAI_BUILDER=" + builder, "CONTAINAI_PLATFORMS=" + platforms, "BUILDX_CONFIG=" + n.config}
}

// built asks a daemon what it completed, and for which platforms.
func (n *nodes) built(t *testing.T, architecture string) (platforms []string) {
	t.Helper()
	for line := range strings.Lines(string(n.buildx(t, "history", "ls", "--builder", "pair", "--format", "json"))) {
		var build struct{ Ref, Status string }
		if err := json.Unmarshal([]byte(line), &build); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		_, ref, ok := strings.Cut(build.Ref, "pair/"+architecture+"/")
		if !ok {
			continue
		}
		var record struct{ Platform []string }
		if err := json.Unmarshal(n.buildx(t, "history", "inspect", "--builder", "pair", "--format", "json", ref), &record); err != nil {
			t.Fatal(err)
		}
		platforms = append(platforms, record.Platform...)
	}
	return platforms
}

// nodeDaemon is one BuildKit, in namespaces that die with it.
type nodeDaemon struct {
	program, dir, address, cgroup string
	running                       *exec.Cmd
}

func (d *nodeDaemon) configure(t *testing.T, architecture, authority, certificate, key string) {
	t.Helper()
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	runc := filepath.Join(d.dir, "runc")
	for file, content := range map[string]string{
		runc: fmt.Sprintf("#!/bin/sh\nexec runc --root %s/steps \"$@\"\n", d.dir),
		filepath.Join(d.dir, "buildkitd.toml"): fmt.Sprintf(`root = %q
[grpc]
  address = ["tcp://%s"]
  [grpc.tls]
    ca = %q
    cert = %q
    key = %q
[otel]
  socketPath = "%s/o"
[cdi]
  disabled = true
[worker.containerd]
  enabled = false
[worker.oci]
  enabled = true
  platforms = ["linux/%s"]
  binary = %q
  defaultCgroupParent = %q
  networkMode = "host"
`, d.dir+"/root", d.address, authority, certificate, key, d.dir, architecture, runc, d.cgroup),
	} {
		if err := os.WriteFile(file, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		d.kill()
		find := exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/"+d.cgroup+"*", "-exec", "rmdir", "{}", "+")
		if out, err := find.CombinedOutput(); err != nil {
			t.Errorf("a killed daemon left its control groups: %v\n%s", err, out)
		}
	})
}

// start starts the daemon and waits until it listens.
func (d *nodeDaemon) start(t *testing.T) {
	t.Helper()
	d.running = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", d.program, "--config", filepath.Join(d.dir, "buildkitd.toml"))
	d.running.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := d.running.StderrPipe()
	if err == nil {
		err = d.running.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	listening := make(chan bool, 1)
	go func() { // until the daemon ends, whose log would block it
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if strings.Contains(lines.Text(), "running server on") {
				listening <- true
			}
		}
		close(listening)
	}()
	if !<-listening {
		t.Fatal("the daemon ended before it listened")
	}
}

func (d *nodeDaemon) kill() {
	if d.running == nil {
		return
	}
	_ = syscall.Kill(-d.running.Process.Pid, syscall.SIGKILL)
	_ = d.running.Wait()
	d.running = nil
}

// greet opens a connection without a certificate and reads the answer.
func (d *nodeDaemon) greet(t *testing.T, authority string) error {
	t.Helper()
	content, err := os.ReadFile(authority)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(content)
	conn, err := tls.Dial("tcp", d.address, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	return err
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func userPrograms(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "containai", "programs")
}

// certificateAuthority issues what a daemon and its clients show each other.
type certificateAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, file string) certificateAuthority {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	content, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, file, "CERTIFICATE", content)
	parsed, err := x509.ParseCertificate(content)
	if err != nil {
		t.Fatal(err)
	}
	return certificateAuthority{parsed, key}
}

func (a certificateAuthority) issue(t *testing.T, dir, name string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	content, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, certificate, "CERTIFICATE", content)
	writePEM(t, key, "PRIVATE KEY", encoded)
	return certificate, key
}

func writePEM(t *testing.T, file, kind string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
		t.Fatal(err)
	}
}
