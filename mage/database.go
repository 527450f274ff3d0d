package mage

import "github.com/containai/containai/mage/internal/inspect"

// database returns the vulnerability database of this run; a zero one means that there is none.
func (w *workshop) database() (inspect.Database, error) {
	if w.env.database == "" {
		return inspect.Database{}, nil
	}
	return inspect.OpenDirectory(w.env.database)
}
