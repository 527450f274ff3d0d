package inspect

import (
	"time"

	"github.com/containai/containai/mage/evidence"
)

// Holds reports whether an inspection at the time now would be made by the tools and with the database
// that a report names: then it would say the same. It fails where that database is older than maxAge.
func (i *Inspector) Holds(r evidence.Report, now time.Time, maxAge time.Duration) (bool, error) {
	job := Job{Cells: []Cell{{Cell: r.Cell, Digest: r.Digest}}, Database: i.db, Now: now, MaxAge: maxAge}
	want, err := i.expect(job)
	if err != nil {
		return false, err
	}
	return want[0].checkReport(r) == nil, nil
}
