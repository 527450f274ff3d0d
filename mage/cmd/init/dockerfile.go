package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// dockerfile is what the generator must know of a Dockerfile: where it lies and what it is made from.
type dockerfile struct {
	Path   string // relative to the project, with slashes
	Stands origin // what the last stage stands on, through the stages before it
	Takes  []origin
}

// origin is an image that a Dockerfile names, and where.
type origin struct {
	Image string
	Line  int
}

// context is the directory that a Dockerfile is built in.
func (d dockerfile) context() string { return path.Dir(d.Path) }

// file is its name within the context.
func (d dockerfile) file() string { return path.Base(d.Path) }

// isDockerfile: Dockerfile, Dockerfile.NAME and NAME.Dockerfile, as BuildKit and editors know them.
func isDockerfile(name string) bool {
	if strings.HasSuffix(name, ".dockerignore") {
		return false
	}
	return name == "Dockerfile" || strings.HasPrefix(name, "Dockerfile.") || strings.HasSuffix(name, ".Dockerfile")
}

// word is what people would call its image: NAME, or else the directory; empty in the project's own.
func (d dockerfile) word() string {
	name := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(d.file(), "Dockerfile"), "."), ".Dockerfile")
	if name == "" && d.context() != "." {
		name = path.Base(d.context())
	}
	return name
}

// Instructions that name images (https://docs.docker.com/reference/dockerfile/).
var (
	fromLine = lazyregexp.New(`(?i)^FROM\s+(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?\s*$`)
	argLine  = lazyregexp.New(`(?i)^ARG\s+([A-Za-z_][A-Za-z0-9_]*)=(\S*)\s*$`)
	takeFlag = lazyregexp.New(`(?i)^(?:COPY|ADD)\s.*--from=(\S+)|^RUN\s.*--mount=\S*\bfrom=([^\s,]+)`)
	variable = lazyregexp.New(`\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))`)
)

// parseDockerfile reads the stages. What it does not understand of the rest BuildKit reads better.
func parseDockerfile(file string, content []byte) (dockerfile, error) {
	d := dockerfile{Path: file}
	stages, arguments := map[string]origin{}, map[string]string{}
	count := 0
	for _, l := range instructions(string(content)) {
		if m := argLine.FindStringSubmatch(l.text); m != nil && count == 0 {
			arguments[m[1]] = strings.Trim(m[2], `"'`)
		}
		if m := takeFlag.FindStringSubmatch(l.text); m != nil {
			d.Takes = append(d.Takes, origin{m[1] + m[2], l.number})
		}
		m := fromLine.FindStringSubmatch(l.text)
		if m == nil {
			continue
		}
		image, err := substitute(m[1], arguments)
		if err != nil {
			return d, fmt.Errorf("%s:%d: %w", file, l.number, err)
		}
		at := origin{image, l.number}
		if earlier, ok := stages[strings.ToLower(image)]; ok {
			at = earlier
		} else {
			d.Takes = append(d.Takes, at)
		}
		stages[fmt.Sprint(count)] = at
		if m[2] != "" {
			stages[strings.ToLower(m[2])] = at
		}
		count, d.Stands = count+1, at
	}
	if count == 0 {
		return d, fmt.Errorf("%s:1: it has no FROM, and so is no Dockerfile", file)
	}
	d.Takes = foreign(d.Takes, stages)
	return d, nil
}

// foreign leaves out what is a stage of the same file.
func foreign(takes []origin, stages map[string]origin) []origin {
	var left []origin
	for _, t := range takes {
		if _, own := stages[strings.ToLower(t.Image)]; !own {
			left = append(left, t)
		}
	}
	return left
}

// substitute puts the defaults of ARGs before the first FROM in place of variables.
func substitute(s string, arguments map[string]string) (string, error) {
	var unknown string
	s = variable.ReplaceAllStringFunc(s, func(v string) string {
		m := variable.FindStringSubmatch(v)
		value, ok := arguments[m[1]+m[3]]
		if !ok && m[2] == "" {
			unknown = m[1] + m[3]
		}
		if value == "" {
			value = m[2]
		}
		return value
	})
	if unknown != "" {
		return "", fmt.Errorf("FROM uses %s, which no ARG before it gives a value", unknown)
	}
	return strings.Trim(s, `"'`), nil
}

// instruction is one of a Dockerfile, without comments and joined over continued lines.
type instruction struct {
	text   string
	number int
}

func instructions(content string) []instruction {
	var all []instruction
	var open *instruction
	number := 0
	for line := range strings.Lines(content) {
		number++
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if open == nil {
			all = append(all, instruction{number: number})
			open = &all[len(all)-1]
		}
		part, continued := strings.CutSuffix(text, `\`)
		open.text += " " + part
		if !continued {
			open = nil
		}
	}
	for i := range all {
		all[i].text = strings.TrimSpace(all[i].text)
	}
	return all
}
