package buildkit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The recordings in testdata are what Buildx 0.38.2 wrote, unchanged.
func recording(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func play(content []byte) (*meter, []Event) {
	var events []Event
	m := newMeter(func(e Event) { events = append(events, e) })
	for line := range bytes.Lines(content) {
		m.line(strings.TrimRight(string(line), "\n"))
	}
	return m, events
}

func TestMeterTellsABuildStepByStep(t *testing.T) {
	_, events := play(recording(t, "success.jsonl"))
	var steps []string
	for _, e := range events {
		if e.Finished {
			steps = append(steps, e.Image+" "+e.Step)
		}
		if e.Done > e.Total {
			t.Errorf("%d of %d steps are done", e.Done, e.Total)
		}
	}
	want := []string{
		"base 1/2 RUN --network=none date +%s >/built",
		"app 1/4 RUN --mount=type=secret,id=ca,target=/run/ca.pem head -c 5 /run/ca.pem >/ca-was-here",
		"app 2/4 RUN useradd --uid 1000 plain",
		"app 3/4 WORKDIR /srv",
		"base exporting to oci image format",
		"app exporting to oci image format",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("finished steps (-want +got):\n%s", diff)
	}
}

func TestFailureNamesImageStepAndLine(t *testing.T) {
	m, _ := play(recording(t, "failure.jsonl"))
	want := &failure{
		Image: "broken", Step: "1/2 RUN echo the reason is here >&2; exit 7", Where: "Dockerfile:3",
		Cause:  `process "/bin/sh -c echo the reason is here >&2; exit 7" did not complete successfully: exit code: 7`,
		Output: "the reason is here",
	}
	if diff := cmp.Diff(want, m.failure()); diff != "" {
		t.Errorf("failure (-want +got):\n%s", diff)
	}
}

func TestParseLabel(t *testing.T) {
	for name, want := range map[string]label{
		"[app 2/7] RUN make":                      {image: "app", number: "2/7", text: "2/7 RUN make"},
		"[app linux/arm64 stage-0 2/7] RUN [x]":   {image: "app", platform: "linux/arm64", number: "2/7", text: "2/7 RUN [x]"},
		"[app linux/arm/v7 node 1/3] RUN a":       {image: "app", platform: "linux/arm/v7", number: "1/3", text: "1/3 RUN a"},
		"[app internal] load build definition":    {image: "app", internal: true, text: "load build definition"},
		"[app context os] OCI load from client":   {image: "app", internal: true, text: "OCI load from client"},
		"[internal] load local bake definitions":  {image: "internal", text: "load local bake definitions"},
		"[app] exporting to oci image format":     {image: "app", text: "exporting to oci image format"},
		"docker-image://docker.io/library/debian": {internal: true, text: "docker-image://docker.io/library/debian"},
		"": {internal: true},
	} {
		if got := parseLabel(name); got != want {
			t.Errorf("parseLabel(%q) = %+v, want %+v", name, got, want)
		}
	}
}

// FuzzMeter: whatever a build prints, the meter neither fails nor counts more than there is, and
// an error fits on a page.
func FuzzMeter(f *testing.F) {
	for line := range bytes.Lines(recording(f, "failure.jsonl")) {
		if len(line) < 1000 {
			f.Add(line)
		}
	}
	f.Add([]byte(`{"vertexes":[{"digest":"a","name":"[x 1/2] RUN","error":"no space left on device"}],"logs":[{"vertex":"a","data":"AAAA"}]}` + "\nERROR: target x: failed to solve: y\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		m, events := play(content)
		for _, e := range events {
			if e.Done > e.Total || e.Image == "" {
				t.Errorf("impossible event %+v", e)
			}
		}
		fail := m.failure()
		if lines := strings.Count(fail.Output, "\n"); lines > outputLines {
			t.Errorf("the failure quotes %d lines", lines)
		}
		_ = fail.Error()
	})
}

func TestF1StepsAndFailuresAreShownWithoutSecrets(t *testing.T) {
	key, token := "AKIA"+"2OGYBAH6STMMNXWQ", "ghp_"+strings.Repeat("a1B2", 9)
	step := parseLabel("[app linux/amd64 2/2] RUN echo " + key)
	failed := failure{Step: "2/2 RUN", Cause: "process " + key, Output: token}
	for _, shown := range []string{step.text, failed.Error()} {
		if strings.Contains(shown, key) || strings.Contains(shown, token) {
			t.Errorf("%q holds a secret", shown)
		}
	}
}
