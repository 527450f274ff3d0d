package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
	"github.com/containai/containai/mage/internal/pack"
	"github.com/containai/containai/mage/verify"
)

// Limits of what an installer takes.
const (
	maxScript  = 1 << 20  // bytes of the installer
	maxArchive = 16 << 20 // bytes of the payload
	maxFiles   = 64 << 20 // bytes of its files
	maxEntries = 10_000   // files
)

// fetch verifies what a channel serves to an installer, and only then makes the directory:
//
//	payload/    the payload's files
//	install.sh  the installer that was released with them
//	verified    what was verified, a line KEY=VALUE each
func (q *question) fetch(ctx context.Context) error {
	channel, dir := q.args[0], q.args[1]
	v, err := q.online(channel)
	if err != nil {
		return err
	}
	var result verify.Result
	var served verify.Served
	err = q.remembering(v, func() (verify.Result, error) {
		result, served, err = v.Artifacts(ctx, channel, q.now)
		return result, err
	})
	if err != nil {
		return err
	}
	archive, err := layer(ctx, v, family.Payload, served.Payload, maxArchive)
	if err != nil {
		return err
	}
	script, err := layer(ctx, v, family.Installer, served.Installer, maxScript)
	if err != nil {
		return err
	}
	if err := unpack(ctx, archive, dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "install.sh"), script, 0o755); err != nil {
		return fault.Wrap(err, fault.Environment, "writing", dir)
	}
	if err := os.WriteFile(filepath.Join(dir, "verified"), verified(channel, result, served), 0o644); err != nil {
		return fault.Wrap(err, fault.Environment, "writing", dir)
	}
	return q.print(result, result.String)
}

// layer reads the first layer of an artifact, which has the type that the family file says.
func layer(ctx context.Context, v *verify.Verifier, kind family.Kind, n graph.Node, limit int64) ([]byte, error) {
	name := v.Family.ArtifactOf(kind)
	repo := v.Registry.Repository(name)
	m, err := graph.Manifest(ctx, repo, n)
	if err != nil {
		return nil, gone(err, name)
	}
	artifact, mediaType := v.Family.Artifacts[name].Types()
	if m.ArtifactType != artifact || len(m.Layers) == 0 || m.Layers[0].MediaType != mediaType {
		return nil, fault.New(fault.Forged, "reading", name, "it is no %s of type %s", artifact, mediaType)
	}
	content, err := graph.Fetch(ctx, repo, m.Layers[0], limit)
	return content, gone(err, name)
}

// gone tells what a release names and the registry does not have from a conflict: who reads has no
// plan that anything could have moved away from.
func gone(err error, name string) error {
	if !errors.Is(err, fault.Conflict) {
		return err
	}
	return &fault.Error{Op: "reading", Subject: name, Kind: fault.Unverified, Err: errors.New(err.Error()),
		Hint: "a part of this release is not there, though it is signed: tell its releasers"}
}

// unpack makes a directory with the payload in it; what is there already is not touched.
func unpack(ctx context.Context, archive []byte, dir string) error {
	tree := filepath.Join(dir, "payload")
	for _, d := range []string{dir, tree} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fault.Wrap(err, fault.Environment, "creating", d)
		}
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "opening", tree)
	}
	defer root.Close()
	return pack.Unpack(ctx, bytes.NewReader(archive), root, pack.Limits{Archive: maxArchive, Total: maxFiles, Entries: maxEntries})
}

// verified are lines that a shell reads without quoting: names, numbers and digests alone.
func verified(channel string, r verify.Result, s verify.Served) []byte {
	return fmt.Appendf(nil, "channel=%s\ngeneration=%d\ncommit=%s\nrecord=%s\npayload=%s\ninstaller=%s\n",
		channel, r.Generation, s.State.Commit, s.State.Record, s.Payload.Digest, s.Installer.Digest)
}
