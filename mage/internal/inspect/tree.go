package inspect

import (
	"archive/tar"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/fault"
)

// maxTreeFiles bounds the entries of a directory.
const maxTreeFiles = 1 << 20

// PackTree writes the files below dir as one tar stream that depends on nothing but their names,
// contents, link targets and execute bits. Only regular files, directories and symbolic links
// can be packed. Links are not followed.
func PackTree(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.Wrap(err, fault.Environment, "opening", dir)
	}
	defer root.Close()
	archive := tar.NewWriter(w)
	entries := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if entries++; entries > maxTreeFiles {
			return fault.New(fault.Refused, "packing", dir, "more than %d entries", maxTreeFiles)
		}
		return packEntry(archive, root, name, entry)
	})
	if err != nil {
		return fault.Wrap(err, fault.Environment, "packing", dir)
	}
	return archive.Close()
}

// TreeDigest returns the digest of a directory: that of its [PackTree].
func TreeDigest(dir string) (digest.Digest, error) {
	hash := digest.SHA256.Digester()
	if err := PackTree(hash.Hash(), dir); err != nil {
		return "", err
	}
	return hash.Digest(), nil
}

func packEntry(archive *tar.Writer, root *os.Root, name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: filepath.ToSlash(name), Format: tar.FormatPAX, ModTime: time.Unix(0, 0), Mode: 0o644}
	switch {
	case info.IsDir():
		header.Typeflag, header.Mode, header.Name = tar.TypeDir, 0o755, header.Name+"/"
	case info.Mode().IsRegular():
		header.Typeflag, header.Size, header.Mode = tar.TypeReg, info.Size(), 0o644|int64(info.Mode()&0o111)
	case info.Mode()&fs.ModeSymlink != 0:
		header.Typeflag = tar.TypeSymlink
		if header.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
	default:
		return fault.New(fault.Refused, "packing", name, "it is neither a file, a directory nor a link")
	}
	if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.CopyN(archive, file, info.Size())
	return err
}
