package buildkit

import (
	"errors"
	"testing"

	"github.com/containai/containai/mage/fault"
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
			if got, err := pick(test.host); got != test.want || err != nil {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
	_, err := pick(host{})
	if !errors.Is(err, fault.Environment) || fault.HintOf(err) == "" {
		t.Errorf("without anything: got %v with hint %q, want fault.Environment with the commands", err, fault.HintOf(err))
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
