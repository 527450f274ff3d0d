package verify

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

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

// Remember notes a verified document. The file is replaced as a whole.
func (m Memory) Remember(name string, s Seen) error {
	all, err := m.read()
	if err != nil || all[name] == s {
		return err
	}
	all[name] = s
	content, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return fault.Wrap(replace(m.Path, append(content, '\n')), fault.Environment, "writing", m.Path)
}

func (m Memory) read() (map[string]Seen, error) {
	all := map[string]Seen{}
	content, err := os.ReadFile(m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &all)
	}
	if err != nil {
		return nil, &fault.Error{Op: "reading", Subject: m.Path, Kind: fault.Environment, Err: err,
			Hint: "it says which channels documents were seen; look into it before you delete it"}
	}
	return all, nil
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
