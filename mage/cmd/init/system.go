package main

import (
	"fmt"
	"strings"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// system is the operating system that a family stands on: one pinned image of Debian.
type system struct {
	Image string // name@sha256:…
	Suite string
}

// known is the image whose digest this version of the library knows.
func known() system {
	return system{"debian:bookworm-slim@sha256:7802002798b0e351323ed2357ae6dc5a8c4d0a05a57e7f4d8f97136151d3d603", "bookworm"}
}

var (
	referenceGrammar = lazyregexp.New(`^[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?$`)
	debianReference  = lazyregexp.New(`^(?:docker\.io/)?(?:library/)?debian(?::([a-z0-9.-]+))?(?:@sha256:[0-9a-f]{64})?$`)
	suiteOfTag       = lazyregexp.New(`^(bookworm|trixie|12|13)(?:[.-][a-z0-9.-]*)?$`)
)

// join takes a reference as the operating system, or says why it cannot be: all images of a family stand
// on the same one, whose digest somebody must have said.
func (s *system) join(image string) error {
	m := debianReference.FindStringSubmatch(image)
	if m == nil {
		return fmt.Errorf("it stands on %q, which is neither an image of this project nor Debian: begin with FROM %s, and install the rest", image, strings.SplitN(known().Image, "@", 2)[0])
	}
	next := known()
	suite := ""
	if of := suiteOfTag.FindStringSubmatch(m[1]); of != nil {
		suite = map[string]string{"12": "bookworm", "13": "trixie", "bookworm": "bookworm", "trixie": "trixie"}[of[1]]
	}
	switch pinned := strings.Contains(image, "@"); {
	case suite == "":
		return fmt.Errorf("it stands on %q, whose tag tells no suite: write debian:bookworm-slim", image)
	case pinned:
		next = system{image, suite}
	case suite != next.Suite:
		return fmt.Errorf("it stands on %q, of which no digest is known: pin it, as debian:%s-slim@sha256:…", image, suite)
	}
	if s.Image != "" && *s != next {
		return fmt.Errorf("it stands on %q, and another image on %q: a family stands on one operating system", image, s.Image)
	}
	*s = next
	return nil
}
