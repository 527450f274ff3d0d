package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryListenerIsOnTheLoopbackInterface(t *testing.T) {
	t.Parallel()
	h := start(t, t.TempDir(), widget)
	addresses := listeners(t, h.cmd.Process.Pid)
	if len(addresses) == 0 {
		t.Fatal("no listener found: the test looks in the wrong place")
	}
	for _, address := range addresses {
		if !strings.HasPrefix(address, "0100007F:") { // 127.0.0.1 as /proc/net/tcp writes it
			t.Errorf("it listens on %s", address)
		}
	}
}

// listeners returns the local addresses of a process's listening sockets, proc_pid_net(5).
func listeners(t *testing.T, pid int) []string {
	t.Helper()
	own := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fd)
		own[target] = true
	}
	var addresses []string
	for _, table := range []string{"tcp", "tcp6"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // a kernel without IPv6
		}
		for line := range strings.Lines(string(content)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && own["socket:["+f[9]+"]"] {
				addresses = append(addresses, f[1])
			}
		}
	}
	return addresses
}
