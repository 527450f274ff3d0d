package ledger

import (
	"bytes"
	"context"
	"crypto/sha1" // git's names of objects, not a protection of ours: documents are chained by SHA-256
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/release"
)

// The one entry of every commit's tree.
const (
	fileName = "channels.json"
	fileMode = "100644"
)

// batchSize is how many generations are read by one pair of git processes.
const batchSize = 256

// maxGenerations bounds the history that is fetched where a shallow clone cut it off.
const maxGenerations = 1 << 20

// generation is one commit of the ledger.
type generation struct {
	head   release.Head
	parent string // the commit of the generation before; empty in generation 1
}

// walk visits every generation from the newest to the first, until visit returns false.
func (l *Ledger) walk(ctx context.Context, visit func(release.Head) bool) error {
	id, err := l.tip(ctx)
	if err != nil {
		return err
	}
	var newer *generation
	for id != "" {
		ids, err := l.chain(ctx, id, newer)
		if err != nil {
			return err
		}
		contents, err := l.contents(ctx, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			g, err := parseGeneration(id, contents[i])
			if err == nil {
				err = g.precedes(newer)
			}
			if err != nil {
				return g.fault(err, newer)
			}
			if !visit(g.head) {
				return nil
			}
			newer = &g
		}
		id = newer.parent
	}
	return nil
}

// chain returns the commits from id back along the first parents, at most batchSize. Where a
// shallow clone cut the ledger's history off, it is fetched.
func (l *Ledger) chain(ctx context.Context, id string, newer *generation) ([]string, error) {
	if newer != nil && !l.has(ctx, id) {
		if err := l.deepen(ctx, newer); err != nil {
			return nil, err
		}
	}
	out, err := l.git(ctx, nil, "rev-list", "--first-parent", fmt.Sprintf("--max-count=%d", batchSize), id, "--")
	if err != nil {
		return nil, err
	}
	ids := strings.Fields(string(out))
	for _, id := range ids {
		if !isID(id) {
			return nil, fault.New(fault.Environment, "listing ledger", l.ref, "git answered %q", id)
		}
	}
	if len(ids) == 0 || ids[0] != id {
		return nil, fault.New(fault.Environment, "listing ledger", l.ref, "git lists nothing from %s", id)
	}
	return ids, nil
}

// contents reads what git stores of each commit: itself, its tree and its document.
func (l *Ledger) contents(ctx context.Context, ids []string) ([][3]object, error) {
	var names bytes.Buffer
	for _, id := range ids {
		fmt.Fprintf(&names, "%s\n%s^{tree}\n%s:%s\n", id, id, id, fileName)
	}
	out, err := l.git(ctx, names.Bytes(), "cat-file", "--batch")
	if err != nil {
		return nil, err
	}
	objects, err := parseObjects(out)
	if err == nil && len(objects) != 3*len(ids) {
		err = fmt.Errorf("%d objects, want %d", len(objects), 3*len(ids))
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Environment, "reading ledger", l.ref)
	}
	contents := make([][3]object, len(ids))
	for i := range ids {
		contents[i] = [3]object(objects[3*i:])
	}
	return contents, nil
}

// object is one answer of git cat-file --batch. The zero object is missing.
type object struct {
	id      string
	kind    string // commit, tree or blob
	content []byte
}

// parseObjects reads the output of git cat-file --batch, in the order of the names it was given:
// https://git-scm.com/docs/git-cat-file#_batch_output
func parseObjects(out []byte) ([]object, error) {
	var objects []object
	for len(out) > 0 {
		line, rest, ok := bytes.Cut(out, []byte("\n"))
		if !ok {
			return nil, errors.New("the answer ends within a line")
		}
		fields := strings.Fields(string(line))
		if len(fields) == 2 && fields[1] == "missing" {
			objects, out = append(objects, object{}), rest
			continue
		}
		if len(fields) != 3 || !isID(fields[0]) {
			return nil, fmt.Errorf("the answer %q is none", line)
		}
		size, err := strconv.ParseUint(fields[2], 10, 31)
		if err != nil || size >= uint64(len(rest)) || rest[size] != '\n' {
			return nil, fmt.Errorf("the answer %q is not followed by that many bytes", line)
		}
		objects, out = append(objects, object{fields[0], fields[1], rest[:size]}), rest[size+1:]
	}
	return objects, nil
}

// check compares an object with its name.
func (o object) check(kind string) error {
	if o.kind != kind {
		return fmt.Errorf("its %s is a %q", kind, o.kind)
	}
	hash := sha1.New()
	fmt.Fprintf(hash, "%s %d\x00", o.kind, len(o.content))
	hash.Write(o.content)
	if got := hex.EncodeToString(hash.Sum(nil)); got != o.id {
		return fmt.Errorf("its %s %s has the content of %s", kind, o.id, got)
	}
	return nil
}

// parseGeneration reads a commit that [Ledger.Append] can have made, and refuses any other. Its
// result names the commit also where it fails.
func parseGeneration(id string, of [3]object) (generation, error) {
	g := generation{head: release.Head{ID: id}}
	commit, tree, document := of[0], of[1], of[2]
	if commit.id != id {
		return g, fmt.Errorf("it is not here")
	}
	if err := commit.check("commit"); err != nil {
		return g, err
	}
	treeID, parents, err := parseCommit(commit.content)
	switch {
	case err != nil:
		return g, err
	case len(parents) > 1:
		return g, fmt.Errorf("it is a merge of %d commits", len(parents))
	case document.id == "":
		return g, fmt.Errorf("it holds no %s", fileName)
	}
	if err := errors.Join(tree.check("tree"), document.check("blob")); err != nil {
		return g, err
	}
	if tree.id != treeID || !bytes.Equal(tree.content, treeOf(document.id)) {
		return g, fmt.Errorf("it holds more than %s", fileName)
	}
	if len(parents) == 1 {
		g.parent = parents[0]
	}
	g.head.Content = document.content
	if g.head.Document, err = release.DecodeDocument(document.content); err != nil {
		return g, err
	}
	if n := g.head.Document.Generation; (n == 1) != (g.parent == "") {
		return g, fmt.Errorf("it is generation %d and has %d parents", n, len(parents))
	}
	return g, nil
}

// parseCommit reads the tree and the parents of a commit object: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
func parseCommit(content []byte) (tree string, parents []string, err error) {
	for line := range bytes.Lines(content) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch key {
		case "tree":
			tree = value
		case "parent":
			parents = append(parents, value)
		default:
			return tree, parents, checkIDs(append(parents, tree))
		}
	}
	return "", nil, errors.New("it is not a commit")
}

func checkIDs(ids []string) error {
	for _, id := range ids {
		if !isID(id) {
			return fmt.Errorf("it names %q, which is no object", id)
		}
	}
	return nil
}

// treeOf returns the bytes of the one tree that a generation may have.
func treeOf(document string) []byte {
	raw, _ := hex.DecodeString(document)
	return append([]byte(fileMode+" "+fileName+"\x00"), raw...)
}

// precedes checks that newer was appended after g; there is none after the newest.
func (g generation) precedes(newer *generation) error {
	switch {
	case newer == nil:
		return nil
	case newer.parent != g.head.ID:
		return fmt.Errorf("generation %d follows %s", newer.head.Document.Generation, newer.parent)
	case newer.head.Document.Generation != g.head.Document.Generation+1:
		return fmt.Errorf("it is generation %d, and generation %d follows", g.head.Document.Generation, newer.head.Document.Generation)
	}
	return nil
}

// fault names the generation that err is about.
func (g generation) fault(err error, newer *generation) error {
	place := "newest generation"
	if newer != nil {
		place = fmt.Sprintf("generation %d", newer.head.Document.Generation-1)
	}
	return fault.Wrap(err, fault.Forged, "reading ledger", fmt.Sprintf("%s (commit %s)", place, g.head.ID))
}
