package local

import (
	"net/netip"
	"testing"
)

func FuzzParseAddrAcceptsLoopbackOnly(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:5555\n", "[::1]:1", "0.0.0.0:80", "localhost:1", "127.0.0.1:99999", "::ffff:127.0.0.1:1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		host, err := parseAddr(content)
		if err != nil {
			return
		}
		if at, err := netip.ParseAddrPort(host); err != nil || !at.Addr().IsLoopback() {
			t.Errorf("accepted %q", host)
		}
	})
}
