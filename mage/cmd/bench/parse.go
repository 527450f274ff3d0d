package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// results is what benchmarks printed: of each name and unit the values, in the order in which they came.
type results struct {
	cpu    string
	values map[string]map[string][]float64
}

// processors is what `go test` appends to a name: the number of processors it used.
var processors = lazyregexp.New(`-\d+$`)

// parse reads the output of `go test -bench`. The format is
// https://go.googlesource.com/proposal/+/master/design/14313-benchmark-format.md; every line that is no
// result is passed over, a result that cannot be read is an error.
func parse(output io.Reader) (results, error) {
	found := results{values: map[string]map[string][]float64{}}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		line := lines.Text()
		if cpu, ok := strings.CutPrefix(line, "cpu: "); ok {
			found.cpu = cpu
		}
		fields := strings.Fields(line)
		if !strings.HasPrefix(line, "Benchmark") || len(fields) < 4 {
			continue
		}
		if _, err := strconv.Atoi(fields[1]); err != nil {
			continue // a line of a log that begins like a result
		}
		if err := found.add(processors.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), ""), fields[2:]); err != nil {
			return results{}, fmt.Errorf("reading %q: %w", line, err)
		}
	}
	return found, lines.Err()
}

// add takes pairs of a value and its unit.
func (r results) add(name string, pairs []string) error {
	if len(pairs)%2 != 0 {
		return fmt.Errorf("%q has no unit", pairs[len(pairs)-1])
	}
	if r.values[name] == nil {
		r.values[name] = map[string][]float64{}
	}
	for i := 0; i < len(pairs); i += 2 {
		value, err := strconv.ParseFloat(pairs[i], 64)
		if err != nil {
			return err
		}
		r.values[name][pairs[i+1]] = append(r.values[name][pairs[i+1]], value)
	}
	return nil
}
