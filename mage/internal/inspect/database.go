package inspect

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containai/containai/mage/fault"
)

// Schema is the only schema of the vulnerability database that the linked Trivy reads.
const Schema = 2

// maxMetadata bounds the database's metadata.json, in bytes.
const maxMetadata = 64 << 10

// CheckDatabase reads the metadata of a Trivy vulnerability database and returns what reports say
// of it: schema and build time. A database that is missing, of another schema, from the future
// or, where maxAge is not zero, older than that, is refused.
func CheckDatabase(dir string, now time.Time, maxAge time.Duration) (string, error) {
	const op = "opening vulnerability database"
	content, err := readFile(filepath.Join(dir, "metadata.json"), maxMetadata)
	if err != nil {
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it is missing or unreadable: %w", err))
	}
	var meta struct {
		Version   int
		UpdatedAt time.Time
	}
	if err := json.Unmarshal(content, &meta); err != nil {
		return "", databaseHint(fault.New(fault.Refused, op, dir, "its metadata is not readable: %w", err))
	}
	if _, err := os.Stat(filepath.Join(dir, "trivy.db")); err != nil {
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it has metadata and no content: %w", err))
	}
	updated := meta.UpdatedAt.UTC()
	switch {
	case meta.Version != Schema:
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it has schema %d, want %d", meta.Version, Schema))
	case updated.IsZero():
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it does not say when it was made"))
	case maxAge > 0 && now.Sub(updated) > maxAge:
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it was made %s, more than %s before %s", updated.Format(time.RFC3339), maxAge, now.UTC().Format(time.RFC3339)))
	case maxAge > 0 && updated.After(now.Add(24*time.Hour)):
		return "", databaseHint(fault.New(fault.Refused, op, dir, "it was made %s, which is in the future", updated.Format(time.RFC3339)))
	}
	return fmt.Sprintf("%d %s", meta.Version, updated.Format(time.RFC3339)), nil
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
