//go:build goexperiment.jsonv2

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/cataloging/pkgcataloging"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/pkg/cataloger/binary"
)

// The classifier that reads 100 MB of Node.js for its version, and the files it looks at
// (syft, pkg/cataloger/binary/classifiers.go). It was a quarter of the time of a family whose images
// share one Node.js.
const (
	nodeClass = "nodejs-binary"
	nodeFiles = "**/node"
)

// nodeOnce is Syft's own classifier of Node.js, asked once for the same files of the same layers, whichever
// image has them. What it answers depends on their content alone, which the layers' digests name.
type nodeOnce struct {
	classifier pkg.Cataloger

	mu    sync.Mutex
	known map[string]*answer
}

// answer is what the classifier said of some files.
type answer struct {
	once     sync.Once
	packages []pkg.Package
	err      error
}

// newCatalogers is Syft's default configuration without files, with the classifier of Node.js taken out of
// the others' row and shared.
func newCatalogers(node *nodeOnce, rest binary.ClassifierCatalogerConfig) *syft.CreateSBOMConfig {
	return syft.DefaultCreateSBOMConfig().WithoutFiles().
		WithPackagesConfig(pkgcataloging.DefaultConfig().WithBinaryConfig(rest)).
		WithCatalogers(pkgcataloging.NewAlwaysEnabledCatalogerReference(node))
}

// splitClassifiers takes the classifier of Node.js out of Syft's.
func splitClassifiers() (node *nodeOnce, rest binary.ClassifierCatalogerConfig) {
	all := binary.DefaultClassifierCatalogerConfig().Classifiers
	alone := all[:0:0]
	for i := range all {
		if all[i].Class == nodeClass {
			alone = append(alone, all[i])
		} else {
			rest.Classifiers = append(rest.Classifiers, all[i])
		}
	}
	return &nodeOnce{
		classifier: binary.NewClassifierCataloger(binary.ClassifierCatalogerConfig{Classifiers: alone}),
		known:      map[string]*answer{},
	}, rest
}

func (n *nodeOnce) Name() string { return "nodejs-binary-once" }

func (n *nodeOnce) Catalog(ctx context.Context, resolver file.Resolver) ([]pkg.Package, []artifact.Relationship, error) {
	files, err := resolver.FilesByGlob(nodeFiles)
	if err != nil || len(files) == 0 {
		return nil, nil, err
	}
	var key strings.Builder
	for _, f := range files {
		if f.FileSystemID == "" { // a directory has no digest
			return n.classifier.Catalog(ctx, resolver)
		}
		fmt.Fprintf(&key, "%s %q %q\n", f.FileSystemID, f.RealPath, f.AccessPath)
	}
	a := n.answer(key.String())
	a.once.Do(func() { a.packages, _, a.err = n.classifier.Catalog(ctx, resolver) })
	packages := make([]pkg.Package, len(a.packages))
	for i, p := range a.packages {
		packages[i] = inThis(p, files)
	}
	return packages, nil, a.err
}

func (n *nodeOnce) answer(key string) *answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[key] == nil {
		n.known[key] = &answer{}
	}
	return n.known[key]
}

// inThis is a package with its locations in the image that was asked about: the same files, under the
// numbers that they have there.
func inThis(p pkg.Package, files []file.Location) pkg.Package {
	here := func(l file.Location) file.Location {
		i := slices.IndexFunc(files, func(f file.Location) bool { return f.Coordinates == l.Coordinates && f.AccessPath == l.AccessPath })
		if i < 0 {
			return l
		}
		moved := files[i]
		for key, value := range l.Annotations {
			moved = moved.WithAnnotation(key, value)
		}
		return moved
	}
	var locations []file.Location
	for _, l := range p.Locations.ToSlice() {
		locations = append(locations, here(l))
	}
	p.Locations = file.NewLocationSet(locations...)
	if signature, ok := p.Metadata.(pkg.BinarySignature); ok {
		matches := slices.Clone(signature.Matches)
		for i := range matches {
			matches[i].Location = here(matches[i].Location)
		}
		p.Metadata = pkg.BinarySignature{Matches: matches}
	}
	p.SetID()
	return p
}
