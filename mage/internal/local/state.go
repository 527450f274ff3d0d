// Package local is the embedded default: a state directory, and a registry that serves from it.
//
// A [State] is a directory with an identity, the place of everything that stays between two runs
// on one machine. A [Registry] serves the images in it to this machine. Invariant: it listens on
// loopback only, and one process at a time holds the state's lock; both end with their process,
// also when it is killed.
package local

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// State is a state directory.
type State struct {
	dir    string
	secret string // 64 hex digits; who has it may speak for this state
	unlock func() error
}

// The files of a state directory.
const (
	idFile     = "id"            // the secret
	lockName   = "lock"          // held by the process that releases; holds its pid
	serverLock = "registry.lock" // held by local:serve; holds its pid
	serverAddr = "registry.addr" // where local:serve listens
)

// OpenState opens a state directory, or makes one where nothing is. It is private to its owner and
// ignored by git. A directory that holds something else is refused.
func OpenState(dir string) (*State, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "opening state", dir)
	}
	secret, err := readID(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeState(dir); err == nil {
			secret, err = readID(dir)
		}
	}
	if err != nil {
		return nil, diskFault(err, "opening state", dir)
	}
	s := &State{dir: dir, secret: secret}
	for _, sub := range []string{s.RegistryDir(), s.BuildKitDir(), s.SigstoreDir(), s.CacheDir(), s.WorkDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, diskFault(err, "opening state", dir)
		}
	}
	return s, nil
}

// makeState makes the directory and its identity. Two processes may do so at once: the first
// identity stays.
func makeState(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range there {
		if entry.Name() != ".gitignore" && !strings.HasPrefix(entry.Name(), idFile) {
			return fault.New(fault.Invalid, "opening state", dir, "it holds %s and is not a state directory", entry.Name()).
				WithHint("point CONTAINAI_STATE at an empty or new directory")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, idFile+".*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, newSecret()+"\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), filepath.Join(dir, idFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func newSecret() string {
	random := make([]byte, sha256.Size)
	rand.Read(random) // never fails: it ends the program instead
	return hex.EncodeToString(random)
}

var secretGrammar = lazyregexp.New(`^[0-9a-f]{64}$`)

func readID(dir string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dir, idFile))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(content))
	if !secretGrammar.MatchString(secret) {
		return "", fault.New(fault.Environment, "reading", filepath.Join(dir, idFile), "it is not an identity of 64 hex digits").
			WithHint("mage local:reset wipes the local state")
	}
	return secret, nil
}

// Lock makes this process the one that releases from the state, until Close or its end. Another
// one is refused with fault.Conflict.
func (s *State) Lock() error {
	held, err := takeLock(s.path(lockName), "locking state")
	if err == nil {
		s.unlock = held
	}
	return err
}

// Close gives the lock back.
func (s *State) Close() error {
	unlock := s.unlock
	s.unlock = nil
	if unlock == nil {
		return nil
	}
	return unlock()
}

// takeLock locks a file and writes the pid into it. The kernel unlocks it when its process ends,
// however it ends. It is a bare descriptor, because the garbage collector closes a forgotten
// os.File, and with it would go the lock.
func takeLock(path, op string) (unlock func() error, err error) {
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, diskFault(err, op, path)
	}
	if err := flock(fd); err != nil {
		defer syscall.Close(fd)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Conflict, op, filepath.Dir(path), "process %s holds it", holder(fd)).
				WithHint("wait until that process is done, or point CONTAINAI_STATE at another directory")
		}
		return nil, diskFault(err, op, path)
	}
	err = syscall.Ftruncate(fd, 0)
	if err == nil {
		_, err = syscall.Write(fd, fmt.Appendln(nil, os.Getpid()))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, diskFault(err, op, path)
	}
	return func() error { return syscall.Close(fd) }, nil
}

// flock tries to lock a file and repeats what a signal interrupted.
func flock(fd int) error {
	for {
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EINTR {
			return err
		}
	}
}

var pidGrammar = lazyregexp.New(`^[0-9]{1,10}$`)

// holder reads the pid in a lock file.
func holder(fd int) string {
	content := make([]byte, 16)
	n, err := syscall.Read(fd, content)
	if err == nil && n > 0 {
		if pid := strings.TrimSpace(string(content[:n])); pidGrammar.MatchString(pid) {
			return pid
		}
	}
	return "unknown"
}

// ID is the identity of this state and its registry: 16 hex digits, not secret. A wiped state has
// another.
func (s *State) ID() string {
	sum := sha256.Sum256([]byte("containai state " + s.secret))
	return hex.EncodeToString(sum[:8])
}

// Dir is the absolute path of the state directory.
func (s *State) Dir() string { return s.dir }

// RegistryDir holds the embedded registry's content.
func (s *State) RegistryDir() string { return s.path("registry") }

// BuildKitDir holds the embedded BuildKit's root.
func (s *State) BuildKitDir() string { return s.path("buildkit") }

// SigstoreDir holds the keys of the local Sigstore.
func (s *State) SigstoreDir() string { return s.path("sigstore") }

// LedgerDir is the local ledger, a bare git repository that its owner makes.
func (s *State) LedgerDir() string { return s.path("ledger.git") }

// CacheDir holds what can be made or fetched again.
func (s *State) CacheDir() string { return s.path("cache") }

// WorkDir holds what lives as long as one run.
func (s *State) WorkDir() string { return s.path("work") }

func (s *State) path(name string) string { return filepath.Join(s.dir, name) }

// diskFault classifies an error of the file system.
func diskFault(err error, op, subject string) error {
	if _, ok := err.(*fault.Error); ok || err == nil {
		return err
	}
	e := &fault.Error{Op: op, Subject: subject, Kind: fault.Environment, Err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return e.WithHint("the disk is full: free some space and run the same command again")
	}
	return e
}
