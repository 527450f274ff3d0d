package buildkit

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestReadMirrorsTakesTheMachinesOwnSources(t *testing.T) {
	apt := fstest.MapFS{
		"sources.list": {Data: []byte(`# comment
deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm main contrib # here
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian trixie main
deb cdrom:[Debian] bookworm main
`)},
		"sources.list.d/debian.sources": {Data: []byte(`Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm-updates
 bookworm
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
`)},
		"sources.list.d/vendor.sources": {Data: []byte("Types: deb\nURIs: https://vendor.example/apt\nSuites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/vendor.gpg\n")},
		"sources.list.d/vendor.list":    {Data: []byte("deb [signed-by=/etc/apt/keyrings/vendor.asc] https://vendor.example/apt bookworm stable\n")},
	}
	got, err := readMirrors(apt, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"deb http://mirror.example/debian bookworm main",
		"deb http://mirror.example/debian bookworm main contrib",
		"deb http://mirror.example/debian bookworm-updates main",
		"deb http://mirror.example/debian-security bookworm-security main",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// FuzzParseSources: whatever a sources file holds, each result is one entry of the suite.
func FuzzParseSources(f *testing.F) {
	f.Add("deb [a=b] http://x/debian bookworm main\n", false)
	f.Add("Types: deb\nURIs: http://x\nSuites: bookworm\nComponents: main\n", true)
	f.Add("deb [\n \tx\n:", true)
	f.Fuzz(func(t *testing.T, content string, deb822 bool) {
		for _, entry := range parseSources(content, deb822, "bookworm") {
			fields := strings.Fields(entry)
			if len(fields) < 4 || fields[0] != "deb" || !strings.HasPrefix(fields[2], "bookworm") || strings.ContainsAny(entry, "\n\r") {
				t.Errorf("%q is no entry of the suite", entry)
			}
		}
	})
}
