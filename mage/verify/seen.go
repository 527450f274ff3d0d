package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containai/containai/mage/fault"
)

// Memory is a small file that keeps the newest channels document that was accepted, for each
// registry and family. Deleting it makes the next look the first one.
type Memory struct{ Path string }

// Recall returns what was last remembered under a name; nothing is the zero Seen. A file that
// cannot be read is an error: forgetting silently would let an old document pass.
func (m Memory) Recall(name string) (Seen, error) {
	all, err := m.read()
	return all[name], err
}

// Remember notes a verified document, accepted where before was what Recall returned. It takes turns
// with others on the same file, which is replaced as a whole. What they noted meanwhile is never
// taken back: a newer document stays, and another one of the same generation is fault.Refused.
func (m Memory) Remember(name string, before, s Seen) error {
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	defer unlock()
	all, err := m.read()
	if err != nil {
		return err
	}
	switch now := all[name]; {
	case now == s, now != before && now.Generation > s.Generation:
		return nil
	case now != before && now.Generation == s.Generation:
		return refuse(fault.Refused, "channels document", Split, "generation %d is %s, and meanwhile %s was seen", s.Generation, s.Digest, now.Digest)
	}
	all[name] = s
	content, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return fault.Wrap(replace(m.Path, append(content, '\n')), fault.Environment, "writing", m.Path)
}

// lock waits until nobody else writes. The file beside it stays: who removes a locked file lets two in.
func (m Memory) lock() (unlock func(), err error) {
	f, err := os.OpenFile(m.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "locking", m.Path)
	}
	for err = syscall.EINTR; err == syscall.EINTR; { // a signal is no reason to go on without
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return nil, fault.Wrap(errors.Join(err, f.Close()), fault.Environment, "locking", m.Path)
	}
	return func() { _ = f.Close() }, nil
}

func (m Memory) read() (map[string]Seen, error) {
	content, err := os.ReadFile(m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]Seen{}, nil
	}
	var all map[string]Seen
	if err == nil {
		err = json.Unmarshal(content, &all)
	}
	if err == nil {
		err = checkMemory(all)
	}
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: m.Path, Kind: fault.Environment, Err: err,
			Hint: "it says which channels documents were seen; look into it before you delete it"}
	}
	return all, nil
}

// checkMemory refuses what decodes to nothing, as null does: it would be forgotten silently.
func checkMemory(all map[string]Seen) error {
	if all == nil {
		return errors.New("it holds no list")
	}
	for name, s := range all {
		if s.Generation == 0 {
			return fmt.Errorf("it says nothing about %q", name)
		}
	}
	return nil
}

func replace(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
