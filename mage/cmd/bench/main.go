// Command bench writes what `go test -bench` measured into docs/benchmarks.md and a picture beside it.
//
// It reads the benchmarks' output from standard input, holds it against the claims that this project makes
// (claims.go), replaces what stands between the markers of the page, and ends with status 1 if a claim was
// missed or not measured. `mage bench` runs the benchmarks and this.
//
//	go test -run '^$' -bench . ./mage/internal/registry | go run ./mage/cmd/bench -page docs/benchmarks.md
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	page := flag.String("page", "docs/benchmarks.md", "the page with the markers; the picture benchmarks.svg is written beside it")
	root := flag.String("root", ".", "the module, whose go.mod files name the peers' versions")
	flag.Parse()
	missed, err := write(os.Stdin, *page, *root, time.Now())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	for _, line := range missed {
		fmt.Fprintln(os.Stderr, "missed:", line)
	}
	if len(missed) > 0 {
		os.Exit(1)
	}
}

// write updates the page and its picture, and returns a line for each claim that does not hold.
func write(output io.Reader, page, root string, now time.Time) (missed []string, err error) {
	measured, err := parse(output)
	if err != nil {
		return nil, err
	}
	where, err := look(root, measured.cpu, now)
	if err != nil {
		return nil, err
	}
	rows := compare(claims(), measured)
	content, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	content, err = between(content, table(rows, where))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", page, err)
	}
	picture := filepath.Join(filepath.Dir(page), "benchmarks.svg")
	return lacking(rows), errors.Join(os.WriteFile(page, content, 0o644), os.WriteFile(picture, []byte(plot(rows)), 0o644))
}

// The markers between which the page is generated.
const (
	begin = "<!-- begin: written by `mage bench`, from mage/cmd/bench/claims.go and what was measured -->\n"
	end   = "<!-- end -->\n"
)

// between replaces what stands between the markers.
func between(page []byte, made string) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(begin))
	if !ok {
		return nil, errors.New("it has no line " + strings.TrimSpace(begin))
	}
	_, after, ok := bytes.Cut(rest, []byte(end))
	if !ok {
		return nil, errors.New("it has no line " + strings.TrimSpace(end))
	}
	return bytes.Join([][]byte{before, []byte(begin), []byte(made), []byte(end), after}, nil), nil
}
