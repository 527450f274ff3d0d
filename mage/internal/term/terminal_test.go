package term_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containai/containai/mage/internal/term"
)

func TestOptionsForATerminal(t *testing.T) {
	tty := openTerminal(t, 97)
	for name, test := range map[string]struct {
		env         map[string]string
		live, color bool
	}{
		"is live and coloured":               {nil, true, true},
		"has no colour when NO_COLOR is set": {map[string]string{"NO_COLOR": "1"}, true, false},
		"is still when it cannot move":       {map[string]string{"TERM": "dumb"}, false, false},
		"is still but coloured in CI":        {map[string]string{"CI": "true"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := term.For(tty, func(name string) string { return test.env[name] }, time.Now)
			if o.Live != test.live || o.Color != test.color || o.Width() != 97 {
				t.Errorf("live %v, coloured %v, %d wide, want %v, %v, 97", o.Live, o.Color, o.Width(), test.live, test.color)
			}
		})
	}
}

func TestOptionsForAFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := term.For(f, func(string) string { return "" }, time.Now)
	if o.Live || o.Color || o.Width() != 80 {
		t.Errorf("a file is live %v, coloured %v, %d wide", o.Live, o.Color, o.Width())
	}
}

// openTerminal makes a real one: the slave of a pseudo-terminal.
func openTerminal(t *testing.T, columns uint16) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return slave
}
