package mage_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// shells are how the installer must run. Busybox brings its own tools, the others have GNU's.
func shells() map[string][]string {
	return map[string][]string{"dash": {"/bin/dash"}, "bash": {"/bin/bash", "--posix"}, "busybox": {"/bin/busybox", "sh"}}
}

// tools are all that a machine has beside its shell, curl and sha256sum.
func tools() []string {
	return []string{"cat", "chmod", "cut", "find", "grep", "ln", "ls", "mkdir", "mktemp", "mv", "readlink", "rm", "rmdir", "sed", "sha256sum", "sort", "tr", "uname"}
}

// rootFS is the root file system of a user's computer, made of the host's programs and nothing else.
type rootFS struct {
	dir   string
	shell []string
	mu    sync.Mutex
	homes int
}

func newRootFS(t *testing.T, shell string) *rootFS {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("changing the root directory needs root")
		}
		t.Skip("changing the root directory needs root")
	}
	r := &rootFS{dir: t.TempDir(), shell: shells()[shell]}
	for _, dir := range []string{"bin", "tmp", "home", "dev", "steps"} {
		if err := os.Mkdir(filepath.Join(r.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mknod(filepath.Join(r.dir, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	r.bring(t, "busybox", "curl")
	if shell == "busybox" {
		for _, name := range append(tools(), "sh") {
			r.link(t, "busybox", "bin/"+name)
		}
	} else {
		r.bring(t, append(tools(), shell)...)
		r.link(t, shell, "bin/sh")
	}
	r.watch(t)
	return r
}

// bring copies programs of the host with the libraries they are linked with.
func (r *rootFS) bring(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		linked, _ := exec.Command("ldd", path).Output() // it fails for static programs
		for field := range strings.FieldsSeq(string(linked)) {
			if strings.HasPrefix(field, "/") {
				r.copy(t, field, field)
			}
		}
		r.copy(t, path, "bin/"+name)
	}
}

func (r *rootFS) copy(t *testing.T, from, to string) {
	t.Helper()
	to = filepath.Join(r.dir, to)
	content, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, content, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rootFS) link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(r.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// watch puts a program before each tool that counts what runs, and kills the installer with all it
// started before the step $LAST.
func (r *rootFS) watch(t *testing.T) {
	t.Helper()
	for _, name := range append(tools(), "curl") {
		script := `#!/bin/busybox sh
until /bin/busybox mkdir /steps/$STEPS.lock 2>/dev/null; do :; done # programs of a pipeline start at once
read n </steps/$STEPS
echo $((n + 1)) >/steps/$STEPS
[ x$n != x$LAST ] || kill -9 0
/bin/busybox rmdir /steps/$STEPS.lock
exec /bin/` + name + ` "$@"
`
		if err := os.WriteFile(filepath.Join(r.dir, "steps", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// machine is a user's home on such a computer.
type machine struct {
	t    *testing.T
	root *rootFS
	home string // within root
	env  []string
}

func (r *rootFS) machine(t *testing.T) *machine {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.homes++
	m := &machine{t: t, root: r, home: fmt.Sprintf("/home/%d", r.homes)}
	if err := os.Mkdir(m.path(""), 0o755); err != nil {
		t.Fatal(err)
	}
	m.env = []string{"HOME=" + m.home, "PATH=/bin", "work=/", "family=", "verifier_amd64="} // variables of ours must not lead the script astray
	return m
}

// path is where something of the home lies for us.
func (m *machine) path(name string) string { return filepath.Join(m.root.dir, m.home, name) }

// prefix is where the installer puts things, for us.
func (m *machine) prefix(name string) string { return m.path(".local/share/containai/" + name) }

// command runs a program on the machine, in a process group of its own.
func (m *machine) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(m.t.Context(), args[0], args[1:]...)
	c.Dir, c.Env = m.home, m.env
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: m.root.dir, Setpgid: true}
	return c
}

// install is a run of a script with the machine's shell.
func (m *machine) install(script string, args ...string) *exec.Cmd {
	m.t.Helper()
	if err := os.WriteFile(m.path("install.sh"), []byte(script), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return m.command(slices.Concat(m.root.shell, []string{m.home + "/install.sh"}, args)...)
}

// replaced is a run where a program of the machine is another one: a script, for the machine's shell.
func (m *machine) replaced(program, by string, c *exec.Cmd) *exec.Cmd {
	m.t.Helper()
	dir := "instead-of-" + program
	if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
		m.t.Fatal(err)
	}
	writeProgram(m.t, m.path(dir+"/"+program), "#!/bin/sh\n"+by)
	c.Env = append(slices.Clone(c.Env), "PATH="+m.home+"/"+dir+":/bin")
	return c
}

// ends runs a command to its end and returns its exit status, -1 for a signal, and output.
func (m *machine) ends(c *exec.Cmd) (int, string) {
	m.t.Helper()
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// want installs, compares the exit status and returns the output.
func (m *machine) want(status int, script string, args ...string) string {
	m.t.Helper()
	got, out := m.ends(m.install(script, args...))
	if got != status {
		m.t.Fatalf("install.sh %q = %d, want %d\n%s", args, got, status, out)
	}
	return out
}

// commit is what the current version was built from. Its command has to work.
func (m *machine) commit() string {
	m.t.Helper()
	if status, out := m.ends(m.command(m.home + "/.local/bin/tiny")); status != 0 {
		m.t.Fatalf("tiny = %d\n%s", status, out)
	}
	profile, err := os.ReadFile(m.prefix("current/profile.env"))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(profile)) {
		if commit, ok := strings.CutPrefix(line, "CONTAINAI_COMMIT="); ok {
			return strings.TrimSpace(commit)
		}
	}
	m.t.Fatalf("no commit in\n%s", profile)
	return ""
}

// wantCommit compares what is installed.
func (m *machine) wantCommit(want string) {
	m.t.Helper()
	if got := m.commit(); got != want {
		m.t.Errorf("commit %s is installed, want %s", got, want)
	}
}

// leftovers are what a run must not leave in the prefix.
func (m *machine) leftovers() []string {
	m.t.Helper()
	var left []string
	for _, pattern := range []string{".work.*", ".new.*", ".lock*"} {
		found, err := filepath.Glob(m.prefix(pattern))
		if err != nil {
			m.t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}
