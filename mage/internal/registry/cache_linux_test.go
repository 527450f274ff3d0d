package registry

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestADiskThatRefusesOnlyCostsSpeed(t *testing.T) {
	for name, flags := range map[string]uintptr{"it is full": 0, "it is read-only": syscall.MS_RDONLY} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32k"); err != nil {
				t.Skipf("a small disk needs the right to mount: %v", err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			if err := os.Mkdir(filepath.Join(dir, "sha256"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, "size=32k"); err != nil {
				t.Fatal(err)
			}
			onlyCostsSpeed(t, newCache(dir, time.Now))
			if names := files(t, dir); len(names) != 0 {
				t.Errorf("it leaves %v", names)
			}
		})
	}
}
