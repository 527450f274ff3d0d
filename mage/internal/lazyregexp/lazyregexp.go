// Package lazyregexp compiles a regular expression when it is first used. There are some sixty of them in this
// library, and a target that uses five need not wait for all at every start. Invariant: what matches is what
// package regexp says.
package lazyregexp

import (
	"regexp"
	"sync"
)

// Regexp is a regular expression that nobody may have used yet.
type Regexp struct{ compiled func() *regexp.Regexp }

// New names an expression. A wrong one panics at its first use; TestNoPatternIsWrong finds it before.
func New(pattern string) *Regexp {
	return &Regexp{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })}
}

func (r *Regexp) MatchString(s string) bool            { return r.compiled().MatchString(s) }
func (r *Regexp) FindString(s string) string           { return r.compiled().FindString(s) }
func (r *Regexp) FindStringIndex(s string) []int       { return r.compiled().FindStringIndex(s) }
func (r *Regexp) FindStringSubmatch(s string) []string { return r.compiled().FindStringSubmatch(s) }
func (r *Regexp) FindAllStringSubmatch(s string, n int) [][]string {
	return r.compiled().FindAllStringSubmatch(s, n)
}
func (r *Regexp) ReplaceAllString(s, with string) string {
	return r.compiled().ReplaceAllString(s, with)
}
func (r *Regexp) ReplaceAllStringFunc(s string, with func(string) string) string {
	return r.compiled().ReplaceAllStringFunc(s, with)
}
func (r *Regexp) String() string { return r.compiled().String() }
