package local

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/retention"
)

// Journal is what a state directory knows of deletions: what was begun and how it ended, the
// manifests that were taken away, and when what has no age was seen first. An entry is on the disk
// before [Journal.Append] returns.
type Journal struct{ dir string }

// Journal opens the journal of a state.
func (s *State) Journal() (*Journal, error) {
	dir := s.path("retention")
	if err := os.MkdirAll(filepath.Join(dir, trashDir), 0o700); err != nil {
		return nil, diskFault(err, "opening journal", dir)
	}
	return &Journal{dir}, nil
}

const (
	journalFile = "journal.jsonl"
	trashDir    = "trash"
	seenFile    = "seen.json"
	maxLine     = 1 << 20 // bytes of one entry
	maxSeen     = 64 << 20
)

// Append writes an entry to the disk.
func (j *Journal) Append(e retention.Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := filepath.Join(j.dir, journalFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return diskFault(err, "writing journal", path)
	}
	if torn(f) {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(append(line, '\n'))
	return diskFault(errors.Join(err, f.Sync(), f.Close()), "writing journal", path)
}

// torn reports whether the last line was not finished: its writer was killed.
func torn(f *os.File) bool {
	last := make([]byte, 1)
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false
	}
	_, err = f.ReadAt(last, info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Entries returns the whole journal, oldest first. A line that a killed writer left unfinished was
// never acted on, and is left out.
func (j *Journal) Entries() ([]retention.Entry, error) {
	path := filepath.Join(j.dir, journalFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskFault(err, "reading journal", path)
	}
	var entries []retention.Entry
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e retention.Entry
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.At != "" {
			entries = append(entries, e)
		}
	}
	return entries, fault.Wrap(lines.Err(), fault.Environment, "reading journal", path)
}

// Keep puts a manifest into the trash.
func (j *Journal) Keep(content []byte) error {
	path := filepath.Join(j.dir, trashDir, digest.FromBytes(content).Encoded())
	return diskFault(writeWhole(path, content), "keeping", path)
}

// Kept returns a manifest from the trash, checked.
func (j *Journal) Kept(d digest.Digest) ([]byte, bool, error) {
	path := filepath.Join(j.dir, trashDir, d.Encoded())
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, diskFault(err, "reading", path)
	case digest.FromBytes(content) != d:
		return nil, false, fault.New(fault.Forged, "reading", path, "its digest is %s", digest.FromBytes(content))
	}
	return content, true, nil
}

// Sighted fills in when items without an age were seen first; what is seen for the first time now
// is as young as now. What is no longer there is forgotten.
func (j *Journal) Sighted(items []graph.Item, now time.Time) error {
	path := filepath.Join(j.dir, seenFile)
	before := map[string]time.Time{}
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return diskFault(err, "reading", path)
	case len(content) > maxSeen:
		return fault.New(fault.Refused, "reading", path, "it exceeds %d bytes", maxSeen)
	default:
		if err := json.Unmarshal(content, &before); err != nil {
			return fault.Wrap(err, fault.Environment, "reading", path)
		}
	}
	after := map[string]time.Time{}
	for i := range items {
		if !items[i].Since.IsZero() {
			continue
		}
		at := items[i].At.String()
		first, seen := before[at]
		if !seen || first.After(now) {
			first = now
		}
		items[i].Since, after[at] = first, first
	}
	if len(after) == 0 {
		return nil
	}
	if content, err = json.Marshal(after); err == nil {
		err = writeWhole(path, content)
	}
	return diskFault(err, "writing", path)
}

// writeWhole makes a file appear whole and on the disk.
func writeWhole(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".partial-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
