package buildkit

import (
	"errors"
	"testing"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/pack"
	"github.com/containai/containai/mage/internal/tool"
)

func TestPickFollowsTheOrderOfChoice(t *testing.T) {
	for name, test := range map[string]struct {
		host host
		want Kind
	}{
		"an explicit builder comes first":           {host{builder: "mine", address: "tcp://x:1", docker: true, root: true}, Explicit},
		"then a Docker that works":                  {host{address: "tcp://x:1", docker: true, root: true}, Docker},
		"then BUILDKIT_HOST":                        {host{address: "tcp://x:1", root: true}, Remote},
		"then the embedded daemon":                  {host{root: true}, Embedded},
		"a user without root can use Docker":        {host{docker: true}, Docker},
		"a user without root can use BUILDKIT_HOST": {host{address: "tcp://x:1"}, Remote},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := pick(test.host); got.Kind != test.want || got.Why == "" || err != nil {
				t.Errorf("got %+v, %v, want %v and why", got, err, test.want)
			}
		})
	}
	_, err := pick(host{})
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("without anything: got %v with hint %q, want fault.Environment with the commands", err, fault.HintOf(err))
	}
}

// TestOtherPeoplesBuildKit builds on a BuildKit that somebody else runs: by its address, and as
// a Buildx builder that the user made.
func TestOtherPeoplesBuildKit(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds images")
	}
	host, err := Open(t.Context(), testOptions(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if host.Kind() != Embedded {
		skip(t, "another BuildKit was chosen: "+string(host.Kind()))
	}
	address := "unix://" + socketOf(t, host.state("buildkitd.toml"))
	remote, explicit := testOptions(t, t.TempDir()), testOptions(t, t.TempDir())
	remote.Host, explicit.Builder = address, "mine"
	t.Setenv("HOME", t.TempDir()) // where Buildx keeps the user's builders
	create := command{path: host.buildx.path}
	err = tool.Run(t.Context(), (&Builder{buildx: create}).buildxCommand("create", "--name", "mine", "--driver", "remote", address), fault.Environment)
	if err != nil {
		t.Fatal(err)
	}
	for kind, options := range map[Kind]Options{Remote: remote, Explicit: explicit} {
		t.Run(string(kind), func(t *testing.T) {
			b, err := Open(t.Context(), options)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if b.Kind() != kind || b.Tools()["buildkit"] != BuildKitVersion {
				t.Errorf("opened %s with %v, want %s", b.Kind(), b.Tools(), kind)
			}
			_, store := newLayout(t)
			if _, err := b.Build(t.Context(), request(t, testFamily([]string{"linux/amd64"})), store); err != nil {
				t.Error(err)
			}
		})
	}
	explicit.Builder = "nobody"
	if _, err := Open(t.Context(), explicit); !errors.Is(err, fault.Environment) {
		t.Errorf("a builder that does not exist: got %v, want fault.Environment", err)
	}
}

func TestOpenRefusesOptionsThatContradict(t *testing.T) {
	whole := Options{State: t.TempDir(), Cache: t.TempDir(), Compress: pack.Compress, Now: time.Now}
	stateless, clockless, bare, unpinned := whole, whole, whole, whole
	stateless.State, clockless.Now, bare.Compress, unpinned.Engine = "", nil, nil, "moby/buildkit:latest"
	for name, o := range map[string]Options{"no state": stateless, "no clock": clockless, "no compressor": bare, "a BuildKit image by tag": unpinned} {
		if _, err := Open(t.Context(), o); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want fault.Invalid", name, err)
		}
	}
}

func TestParseListing(t *testing.T) {
	const out = `{"Current":false,"Driver":"remote","Name":"containai-1","Nodes":[{"Name":"a","Version":"v0.34.2","Platforms":["linux/amd64","linux/arm64"]}]}
{"Current":true,"Name":"default*","Err":"no engine","Nodes":[{"Name":"default"}]}
`
	got, err := parseListing([]byte(out), "containai-1")
	if err != nil || len(got.Nodes) != 1 || got.Nodes[0].Version != "v0.34.2" || len(got.Nodes[0].Platforms) != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseListing([]byte(out), "default"); err != nil {
		t.Errorf("the current builder is not found: %v", err)
	}
	for name, out := range map[string]string{"an unknown builder": out, "no output": "", "no JSON": "NAME/NODE DRIVER"} {
		if _, err := parseListing([]byte(out), "other"); !errors.Is(err, fault.Environment) {
			t.Errorf("%s: got %v, want fault.Environment", name, err)
		}
	}
}

func TestBuildxVersion(t *testing.T) {
	for out, want := range map[string]string{
		"github.com/docker/buildx v0.38.2 \n":        "0.38.2",
		"github.com/docker/buildx 0.12.1-debian abc": "0.12.1-debian",
		"": "unknown",
	} {
		if got := buildxVersion(out); got != want {
			t.Errorf("buildxVersion(%q) = %q, want %q", out, got, want)
		}
	}
}
