package inspect

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// Schema is the only schema of the vulnerability database that the linked Trivy reads.
const Schema = 2

// The files of a database, in a directory as in an archive.
const (
	contentFile  = "trivy.db"
	metadataFile = "metadata.json"
)

var errNoFile = errors.New("it is no file")

// maxMetadata bounds the database's metadata.json, in bytes.
const maxMetadata = 64 << 10

// Database is a Trivy vulnerability database on this disk: trivy.db and metadata.json in a directory,
// and the digest that it is known by.
type Database struct {
	Dir    string        `json:"dir"`
	Digest digest.Digest `json:"digest"` // of the manifest it was pulled as, or of the directory's content
	Made   time.Time     `json:"made"`
	Next   time.Time     `json:"next,omitzero"` // when its maker meant to make another

	content digest.Digest // of trivy.db as it was unpacked; empty when nobody unpacked it
}

// OpenDirectory opens a database that somebody put into a directory. Its digest is made of its files:
// no registry knows it.
func OpenDirectory(dir string) (Database, error) {
	d, err := OpenDatabase(dir)
	if err != nil {
		return d, err
	}
	hash := digest.SHA256.Digester()
	for _, name := range []string{contentFile, metadataFile} {
		sum, err := fileDigest(filepath.Join(dir, name))
		if err != nil {
			return d, err
		}
		fmt.Fprintf(hash.Hash(), "%s %s\n", sum, name)
	}
	d.Digest = hash.Digest()
	return d, nil
}

// OpenDatabase reads the metadata of a database and refuses another schema than the linked Trivy
// reads. The digest is the caller's to fill.
func OpenDatabase(dir string) (Database, error) {
	const op = "opening vulnerability database"
	content, err := readFile(filepath.Join(dir, metadataFile), maxMetadata)
	if err != nil {
		return Database{}, databaseHint(fault.New(fault.Refused, op, dir, "it is missing or unreadable: %w", err))
	}
	var meta struct {
		Version    int
		NextUpdate time.Time
		UpdatedAt  time.Time
	}
	if err := json.Unmarshal(content, &meta); err != nil {
		return Database{}, databaseHint(fault.New(fault.Refused, op, dir, "its metadata is not readable: %w", err))
	}
	if info, err := os.Stat(filepath.Join(dir, contentFile)); err != nil || !info.Mode().IsRegular() {
		return Database{}, databaseHint(fault.New(fault.Refused, op, dir, "it has metadata and no content: %w", cmp.Or(err, errNoFile)))
	}
	switch {
	case meta.Version != Schema:
		return Database{}, databaseHint(fault.New(fault.Refused, op, dir, "it has schema %d, want %d", meta.Version, Schema))
	case meta.UpdatedAt.IsZero():
		return Database{}, databaseHint(fault.New(fault.Refused, op, dir, "it does not say when it was made"))
	}
	return Database{Dir: dir, Made: meta.UpdatedAt.UTC(), Next: meta.NextUpdate.UTC()}, nil
}

// String is what reports say of a database: its schema and when it was made.
func (d Database) String() string {
	if d.Dir == "" {
		return ""
	}
	return fmt.Sprintf("%d %s", Schema, d.Made.Format(time.RFC3339))
}

// CheckAge refuses a database that is older than maxAge, or from the future. Zero accepts any. That there
// is no database is for the reports to say, and for the gate to judge.
func (d Database) CheckAge(now time.Time, maxAge time.Duration) error {
	const op = "opening vulnerability database"
	switch {
	case d.Dir == "":
		return nil
	case maxAge > 0 && now.Sub(d.Made) > maxAge:
		return databaseHint(fault.New(fault.Refused, op, d.name(), "it was made %s, more than %s before %s", d.Made.Format(time.RFC3339), maxAge, now.UTC().Format(time.RFC3339)))
	case maxAge > 0 && d.Made.After(now.Add(24*time.Hour)):
		return databaseHint(fault.New(fault.Refused, op, d.name(), "it was made %s, which is in the future", d.Made.Format(time.RFC3339)))
	}
	return nil
}

// intact refuses content that changed since it was unpacked, and removes it: it is pulled again.
func (d Database) intact() error {
	if d.content == "" {
		return nil
	}
	sum, err := fileDigest(filepath.Join(d.Dir, contentFile))
	if err != nil || sum == d.content {
		return err
	}
	if err := os.RemoveAll(d.Dir); err != nil {
		return fault.Wrap(err, fault.Environment, "removing", d.Dir)
	}
	return fault.New(fault.Forged, "opening vulnerability database", d.name(), "its content changed on this disk since it was pulled").
		WithHint("it was removed: run the same command again, which pulls it anew")
}

func fileDigest(path string) (digest.Digest, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fault.Wrap(err, fault.Environment, "reading", path)
	}
	defer file.Close()
	sum, err := digest.SHA256.FromReader(file)
	return sum, fault.Wrap(err, fault.Environment, "reading", path)
}

func (d Database) name() string {
	if d.Digest != "" {
		return d.Digest.String()
	}
	return d.Dir
}

func databaseHint(err *fault.Error) error {
	return err.WithHint("fetch a current database with `mage inspect:mirror`")
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", filepath.Base(path), limit)
	}
	return os.ReadFile(path)
}
