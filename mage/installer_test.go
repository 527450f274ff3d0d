package mage_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/rehearsal"
	"github.com/containai/containai/mage/release"
)

// TestInstaller runs the installer of a real release on computers made for it: a root file system
// with a shell, curl and sha256sum, and nothing of ours.
func TestInstaller(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip("other root directories need root")
	}
	s := newShop(t, "", nil)
	for _, shell := range slices.Sorted(maps.Keys(shells())) {
		t.Run(shell, func(t *testing.T) {
			root := newRootFS(t, shell)
			t.Run("installs, updates, rolls back and uninstalls", func(t *testing.T) { s.lives(t, root.machine(t)) })
			t.Run("asks for an anonymous token", func(t *testing.T) { s.anonymous(t, root.machine(t)) })
			t.Run("refuses a verifier of other bytes", func(t *testing.T) { s.impostor(t, root.machine(t)) })
			t.Run("refuses what the verifier refuses", func(t *testing.T) { s.stranger(t, root.machine(t)) })
			t.Run("survives its death", func(t *testing.T) { s.deaths(t, root) })
		})
	}
	root := newRootFS(t, "dash")
	t.Run("refuses what is not right", func(t *testing.T) { s.refusals(t, root) })
	t.Run("refuses what its family took back", func(t *testing.T) { s.recalled(t, root.machine(t)) })
	t.Run("wrong arguments", func(t *testing.T) { s.misuse(t, root.machine(t)) })
	t.Run("keeps the user's own files", func(t *testing.T) { s.guest(t, root.machine(t)) })
	t.Run("excludes another installer", func(t *testing.T) { s.exclusion(t, root.machine(t)) })
	t.Run("prints nothing that steers a terminal", func(t *testing.T) { s.vandal(t, root.machine(t)) })
	t.Run("its source installs nothing", func(t *testing.T) {
		source, err := os.ReadFile("../artifacts/installer/install.sh")
		if err != nil {
			t.Fatal(err)
		}
		root.machine(t).want(int(fault.Environment), string(source))
	})
}

// TestInstallerReadsGHCR: GHCR wants a token for everything, gives one to nobody in particular for what is
// public, and sends readers of blobs to another host, which wants to see no token.
func TestInstallerReadsGHCR(t *testing.T) {
	owner := rehearsal.Token{Secret: "ghp_owner", Login: "widget", Scopes: []string{"read:packages", "write:packages"}}
	github := rehearsal.New(rehearsal.Options{Tokens: []rehearsal.Token{owner}, Now: time.Now})
	server, blobs := httptest.NewServer(github), httptest.NewServer(github.BlobHost())
	defer server.Close()
	defer blobs.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	s := newShop(t, host, auth.StaticCredential(host, auth.Credential{Username: owner.Login, Password: owner.Secret}))
	github.RedirectBlobs(blobs.URL)
	root := newRootFS(t, "dash")
	private := root.machine(t)
	writeAll(t, private.path("root.json"), s.root)
	from := []string{"--registry", host + "/widget", "--channel", "prod", "--trusted-root", "root.json"}
	private.want(int(fault.Environment), s.script, from...) // it is private, as every package at first
	for _, name := range s.fam.Members() {
		if !github.Publish("widget/" + name) {
			t.Fatalf("there is no package widget/%s", name)
		}
	}
	for _, shell := range slices.Sorted(maps.Keys(shells())) {
		m := newRootFS(t, shell).machine(t)
		writeAll(t, m.path("root.json"), s.root)
		m.want(0, s.script, from...)
		m.wantCommit(s.first)
	}
}

// A first installation, the same once more, an update by the command that it brought, two ways back.
func (s *shop) lives(t *testing.T, m *machine) {
	c := s.open(t)
	printed := m.want(0, s.script, s.from(m, c, "prod")...)
	wantShown(t, "docs/verification.md", "sh containai-installer.sh --channel prod", []byte(printed))
	m.wantCommit(s.first)
	if out := m.want(0, s.script); !strings.Contains(out, "already here") {
		t.Errorf("the same again printed:\n%s", out)
	}
	m.wantCommit(s.first)

	m.want(0, s.script, "--channel", "dev")
	m.wantCommit(s.second)
	printed = m.want(0, s.script, "--rollback")
	wantShown(t, "docs/verification.md", "containai-update --rollback", []byte(printed))
	m.wantCommit(s.first)
	if _, err := os.Lstat(m.path(".local/bin/more")); !os.IsNotExist(err) {
		t.Errorf("a command of the version that is gone: %v", err)
	}
	m.want(0, s.script, "--rollback")
	m.wantCommit(s.second)
	printed = m.want(0, s.script, "--status")
	wantShown(t, "docs/verification.md", "sh containai-installer.sh --status", []byte(printed))
	if !strings.Contains(printed, s.second) {
		t.Errorf("--status printed:\n%s", printed)
	}
	if out := m.want(0, s.script, "--version"); strings.Count(out, "sha256:") != 2 {
		t.Errorf("--version printed:\n%s", out)
	}
	writeAll(t, m.prefix("current/bin/tiny"), "#!/bin/sh\necho evil\n")
	m.want(int(fault.Forged), s.script, "--status")
	m.want(0, s.script)
	m.want(0, s.script, "--status")
	m.wantCommit(s.second)

	m.want(0, s.script, "--uninstall")
	for _, dir := range []string{m.prefix(""), m.path(".local/bin")} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("--uninstall left %v", left)
		}
	}
}

func (s *shop) anonymous(t *testing.T, m *machine) {
	c := s.open(t)
	c.tokens.Store(true)
	m.want(0, s.script, s.from(m, c, "prod")...)
	m.wantCommit(s.first)
}

// refusals: each leaves the version that was there, and says with its status what was wrong.
func (s *shop) refusals(t *testing.T, root *rootFS) {
	dev := func(change func(d *release.Document, st *release.State)) func(*release.Document) {
		return func(d *release.Document) {
			st := d.Channels["dev"]
			st.Members = maps.Clone(st.Members)
			change(d, &st)
			d.Channels["dev"] = st
		}
	}
	for name, r := range map[string]struct {
		answer func(*counter) answer
		act    func(*counter, *machine)
		status fault.Kind
	}{
		"tampered payload: its archive has other bytes":  {answer: func(c *counter) answer { return flip(c.layer("widget-payload")) }, status: fault.Forged},
		"tampered payload: its manifest has other bytes": {answer: func(c *counter) answer { return flip(c.member("widget-payload")) }, status: fault.Forged},
		"tampered payload: a document names another one": {status: fault.Forged, act: func(c *counter, _ *machine) {
			evil := c.artifact(family.Payload, []byte("evil"))
			c.next(dev(func(_ *release.Document, st *release.State) { st.Members["widget-payload"] = evil }))
		}},
		"replayed: a channels document older than the one seen": {status: fault.Refused, act: func(c *counter, m *machine) {
			_, old := c.document()
			c.next(func(*release.Document) {})
			m.want(0, s.script) // and so it was seen
			_, now := c.document()
			c.show(now.Digest, old)
		}},
		"wrong identity: a document that another repository signed": {status: fault.Forged, act: func(c *counter, _ *machine) {
			c.signed("https://example.com/evil/widget", otherwise)
		}},
		"no signature at all": {answer: func(*counter) answer { return drop("/widget-metadata/manifests/sha256-") }, status: fault.Unverified},
		"mixed: the first release's installer beside the second's payload": {status: fault.Forged, act: func(c *counter, _ *machine) {
			c.next(dev(func(d *release.Document, st *release.State) {
				st.Members["widget-payload"] = d.Channels["prod"].Members["widget-payload"]
			}))
		}},
		"mixed: the first release's record": {status: fault.Forged, act: func(c *counter, _ *machine) {
			c.next(dev(func(d *release.Document, st *release.State) { st.Record = d.Channels["prod"].Record }))
		}},
		"a release that was marked bad": {status: fault.Refused, act: func(c *counter, _ *machine) {
			c.next(dev(func(d *release.Document, st *release.State) {
				d.Denied = map[digest.Digest]release.Denial{st.Record: {Commit: st.Commit, Reason: "leaks", By: "alice", At: d.Issued}}
			}))
		}},
		"an expired document": {status: fault.Refused, act: func(c *counter, _ *machine) {
			c.next(func(d *release.Document) {
				d.Issued, d.Expires = d.Issued.AddDate(-1, 0, 0), d.Issued.AddDate(0, 0, -1)
			})
		}},
		"an installer of other bytes":  {answer: func(c *counter) answer { return flip(c.layer("widget-installer")) }, status: fault.Forged},
		"an archive that is not there": {answer: func(c *counter) answer { return drop(c.layer("widget-payload").String()) }, status: fault.Unverified},
		"a channel that serves nothing": {status: fault.Unverified, act: func(c *counter, _ *machine) {
			c.next(func(d *release.Document) { delete(d.Channels, "dev") })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, m := s.open(t), root.machine(t)
			m.want(0, s.script, s.from(m, c, "prod")...)
			if r.act != nil {
				r.act(c, m)
			}
			if r.answer != nil {
				c.falsify(r.answer(c))
			}
			out := m.want(int(r.status), s.script, "--channel", "dev")
			m.wantCommit(s.first)
			if left := m.leftovers(); len(left) > 0 {
				t.Errorf("a refusal left %v", left)
			}
			t.Log(lastLines(out, 3))
		})
	}
}

// impostor: the verifier that comes is not the one that the script names.
func (s *shop) impostor(t *testing.T, m *machine) {
	c := s.open(t)
	c.falsify(flip("/widget-installer/blobs/"))
	out := m.want(int(fault.Forged), s.script, s.from(m, c, "prod")...)
	if !strings.Contains(out, "the registry's verifier has the digest") {
		t.Errorf("it printed:\n%s", out)
	}
	if _, err := os.Stat(m.prefix("verifier")); !os.IsNotExist(err) {
		t.Errorf("the verifier was kept: %v", err)
	}
}

// stranger: a document that another repository signed is refused at once, and its root not kept.
func (s *shop) stranger(t *testing.T, m *machine) {
	c := s.open(t)
	c.signed("https://example.com/evil/widget", otherwise)
	m.want(int(fault.Forged), s.script, s.from(m, c, "dev")...)
	for _, name := range []string{"current", "trusted_root.json"} {
		if _, err := os.Lstat(m.prefix(name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// recalled: prod still serves the first release, and the second's family file denies its commit.
func (s *shop) recalled(t *testing.T, m *machine) {
	const trust = "\ntrust: {"
	if strings.Count(s.script, trust) != 1 {
		t.Fatalf("the script carries no family file, or several:\n%s", s.script)
	}
	script := strings.Replace(s.script, trust, fmt.Sprintf("%sdeny: [{commit: %q, reason: it leaks a token}], ", trust, s.first), 1)
	c := s.open(t)
	out := m.want(int(fault.Refused), script, s.from(m, c, "prod")...)
	if !strings.Contains(out, "it leaks a token") {
		t.Errorf("it printed:\n%s", out)
	}
	m.want(0, script, s.from(m, c, "dev")...)
	m.wantCommit(s.second)
}

// from are the options of a first installation: later ones know them.
func (s *shop) from(m *machine, c *counter, channel string) []string {
	writeAll(m.t, m.path("root.json"), s.root)
	return []string{"--registry", c.name, "--channel", channel, "--trusted-root", m.home + "/root.json"}
}

// otherwise makes a document of its own: the same bytes might have been signed by others.
func otherwise(d *release.Document) { d.Expires = d.Expires.Add(-time.Minute) }

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// deaths: an update is killed before each program it runs, and at each question to the registry.
// Whatever the moment, the version that is current works, and the same command ends the update.
func (s *shop) deaths(t *testing.T, root *rootFS) {
	c, m := s.open(t), root.machine(t)
	m.want(0, s.script, s.from(m, c, "prod")...)
	before := filepath.Join(t.TempDir(), "home")
	backup(t, m.path(""), before)

	steps := filepath.Join(root.dir, "steps", filepath.Base(m.home))
	update := func(last int) *exec.Cmd {
		writeAll(t, steps, "0\n")
		_ = os.Remove(steps + ".lock") // of a step that was killed
		u := m.install(s.script, "--channel", "dev")
		u.Env = append(slices.Clone(m.env), "PATH=/steps:/bin", "STEPS="+filepath.Base(m.home), fmt.Sprintf("LAST=%d", last))
		return u
	}
	asked := atomic.Int64{}
	count := func() { asked.Add(1) }
	c.asked.Store(&count)
	if status, out := m.ends(update(-1)); status != 0 {
		t.Fatalf("an update that nobody disturbs = %d\n%s", status, out)
	}
	content, err := os.ReadFile(steps)
	if err != nil {
		t.Fatal(err)
	}
	programs, questions := 0, int(asked.Load())
	if _, err := fmt.Sscan(string(content), &programs); err != nil || programs < 40 || questions < 10 {
		t.Fatalf("it ran %d programs and asked %d questions, %v: that is not an update", programs, questions, err)
	}
	t.Logf("%d programs, %d questions", programs, questions)
	survives := func(last, question int) {
		restore(t, before, m.path(""))
		u := update(last)
		number := atomic.Int64{}
		kill := func() {
			if int(number.Add(1)) == question {
				_ = syscall.Kill(-u.Process.Pid, syscall.SIGKILL)
			}
		}
		c.asked.Store(&kill)
		if status, out := m.ends(u); status != -1 {
			t.Fatalf("killed before program %d, at question %d, it ended with %d\n%s", last, question, status, out)
		}
		c.asked.Store(nil)
		if now := m.commit(); now != s.first && now != s.second {
			t.Errorf("killed before program %d, at question %d: commit %s", last, question, now)
		}
		m.want(0, s.script, "--status")
		m.want(0, s.script, "--channel", "dev")
		m.wantCommit(s.second)
		if left := m.leftovers(); len(left) > 0 {
			t.Errorf("killed before program %d, at question %d: %v is left", last, question, left)
		}
	}
	stride := 5 // each moment by one shell, and by the others with CONTAINAI_DEEP
	if root.shell[0] == "/bin/dash" || os.Getenv("CONTAINAI_DEEP") != "" {
		stride = 1
	}
	for last := 0; last < programs; last += stride {
		survives(last, 0)
	}
	for question := 1; question <= questions; question += stride {
		survives(-1, question)
	}
}

// backup copies a home by hard links: the installer replaces files and never writes into one.
func backup(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	backup(t, from, to)
}

func (s *shop) misuse(t *testing.T, m *machine) {
	for _, args := range [][]string{
		{"--nonsense"}, {"--channel"}, {"--channel", "Dev"}, {"--channel", "a/b"}, {"--channel", "a\nb"}, {"--channel", "-policy"},
		{"--registry", "no-owner"}, {"--registry", "host/../x"}, {"--registry", "https://host/owner"},
		{"--prefix", "relative"}, {"--prefix", "/"}, {"--bin", "relative"}, {"--insecure"}, {"--allow-older"}, {"--skip-verify"},
	} {
		m.want(int(fault.Invalid), s.script, args...)
	}
	c := s.open(t)
	m.want(int(fault.Environment), s.script, "--registry", c.name) // without a trusted root
}

func (s *shop) guest(t *testing.T, m *machine) {
	c := s.open(t)
	mine := m.path(".local/bin/tiny")
	if err := os.MkdirAll(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	writeAll(t, mine, "mine")
	m.want(0, s.script, s.from(m, c, "prod")...)
	m.want(0, s.script, "--uninstall")
	if got, err := os.ReadFile(mine); err != nil || string(got) != "mine" {
		t.Errorf("the user's file = %q, %v", got, err)
	}
}

// vandal: somebody wrote into the installed files what a terminal, dash's echo or GitHub would obey.
func (s *shop) vandal(t *testing.T, m *machine) {
	c := s.open(t)
	m.want(0, s.script, s.from(m, c, "prod")...)
	harmless := func(out string) {
		t.Helper()
		for _, evil := range []string{"\x1b", "\a", "\u009b", "\n::"} {
			if strings.Contains(out, evil) {
				t.Errorf("it printed %q", out)
			}
		}
	}
	const evil = "\x1b[2J\u009b2J\a\\033[2J"
	writeAll(t, m.prefix("state"), "channel="+evil+"\nregistry=there\nchannel=::error::no\n")
	out := m.want(0, s.script, "--status")
	harmless(out)
	if !strings.Contains(out, `\033[2J::error::no of there`) {
		t.Errorf("--status printed %q", out)
	}
	harmless(m.want(int(fault.Invalid), s.script))
	profile := m.prefix("current/profile.env")
	writeAll(t, profile, read(t, profile)+"CONTAINAI_COMMIT="+evil+"\nCONTAINAI_COMMIT=::error::no\n")
	harmless(m.want(int(fault.Forged), s.script, "--status"))
	if out := m.want(int(fault.Unverified), s.script, "--status", "--prefix", "/home/ÀÉ"); !strings.Contains(out, "/home/ÀÉ\n") {
		t.Errorf("a directory became %q", out)
	}
}

func (s *shop) exclusion(t *testing.T, m *machine) {
	c := s.open(t)
	m.want(0, s.script, s.from(m, c, "prod")...)
	relock := func(holder string) {
		_ = os.Remove(m.prefix(".lock"))
		if err := os.Symlink(holder, m.prefix(".lock")); err != nil {
			t.Fatal(err)
		}
	}
	relock(fmt.Sprintf("%d.", os.Getpid())) // where nothing says when processes began
	m.want(int(fault.Conflict), s.script)
	m.remember(os.Getpid(), 77)
	relock(fmt.Sprintf("%d.77", os.Getpid()))
	m.want(int(fault.Conflict), s.script)
	relock(fmt.Sprintf("%d.76", os.Getpid())) // of one that had this number before
	m.want(0, s.script)
	leaves := m.replaced("readlink", `rm -f "$HOME/.local/share/containai/.lock"; exec /bin/readlink "$@"`, m.install(s.script))
	if status, out := m.ends(leaves); status != 0 {
		t.Errorf("where the lock's holder leaves before it is known, it ends with %d\n%s", status, out)
	}
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dead := fmt.Sprintf("%d.", gone.Process.Pid)
	relock(dead)
	m.want(0, s.script) // the lock of a process that is gone
	m.wantCommit(s.first)

	relock(dead)
	link := m.prefix(".lock." + dead)
	if err := os.Symlink(dead, link); err != nil {
		t.Fatal(err)
	}
	m.want(0, s.script) // and of one that was killed while it removed that
	relock(dead)
	s.latecomer(t, c, m)
	m.remember(gone.Process.Pid, 88) // one of another user, who takes no signal
	relock(fmt.Sprintf("%d.88", gone.Process.Pid))
	m.want(int(fault.Conflict), s.script)
	relock(dead)
	m.want(0, s.script)
	if left := m.leftovers(); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	writeAll(t, m.prefix(".lock"), "") // no installer's
	m.want(int(fault.Environment), s.script)
}

// remember makes the machine's /proc say when a process began.
func (m *machine) remember(pid, born int) {
	m.t.Helper()
	dir := filepath.Join(m.root.dir, fmt.Sprintf("proc/%d", pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	writeAll(m.t, filepath.Join(dir, "stat"), fmt.Sprintf("%d (sh) x) S%s %d 2654208\n", pid, strings.Repeat(" 1", 18), born))
}

// latecomer: two installers find the lock of a dead one. The slower acts on what it found when the
// other is at work already, and must leave it alone.
func (s *shop) latecomer(t *testing.T, c *counter, m *machine) {
	slow := m.replaced("readlink", `/bin/readlink "$@"; echo found >&2; read -r _`, m.install(s.script))
	fast := m.install(s.script)
	goOn, err := slow.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	says, err := slow.StderrPipe()
	if err == nil {
		err = slow.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var heard []byte
	end := sync.OnceFunc(func() {
		_ = goOn.Close()
		heard, _ = io.ReadAll(says)
		_ = slow.Wait()
	})
	defer end()
	if _, err := says.Read(make([]byte, len("found\n"))); err != nil {
		t.Fatalf("the slow one found no lock: %v", err)
	}
	var fastAsked atomic.Bool
	asked := func() {
		if fastAsked.CompareAndSwap(false, true) { // the slow one may ask, too, if it goes wrong
			end()
		}
	}
	c.asked.Store(&asked)
	status, out := m.ends(fast)
	c.asked.Store(nil)
	if status != 0 || !fastAsked.Load() {
		t.Errorf("the fast one ended with %d\n%s", status, out)
	}
	end()
	if got := slow.ProcessState.ExitCode(); got != int(fault.Conflict) {
		t.Errorf("the slow one ended with %d, want %d\n%s", got, fault.Conflict, heard)
	}
}
