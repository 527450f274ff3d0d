package mage

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/term"
	"github.com/containai/containai/mage/pipeline"
	"github.com/containai/containai/mage/release"
	"github.com/containai/containai/mage/report"
)

func pageOf(name, channel, registry string) string {
	f := &family.Family{Images: map[string]family.Image{"base": {}, name: {From: "base"}}}
	return string(jobPage(report.Model{
		Family: "tiny", Tag: "sha-" + strings.Repeat("a", 40), Channel: channel, Registry: registry, Generation: 7, Reached: string(pipeline.UntilPromote),
		Members: []report.Member{{Name: "base", Digest: digest.FromString("1")}, {Name: name, Digest: digest.FromString("2")}, {Name: "payload", Digest: digest.FromString("3")}},
	}, f))
}

func TestThePageOfARunShowsHowItHangsTogetherAndHowToCheckIt(t *testing.T) {
	page := pageOf("tiny", "dev", "ghcr.io/containai")
	for _, want := range []string{
		"```mermaid\nflowchart LR\n  commit([\"sha-aaaa", "  commit --> m0\n  m0 --> m1\n  commit --> m2\n", "  subgraph channel[\"dev, generation 7\"]\n  m0[\"base\"]\n", "  m2[\"payload\"]\n  end\n",
		"export CONTAINAI_REGISTRY=ghcr.io/containai\ngo tool mage verify:channel dev\n",
		"verify:image tiny@" + digest.FromString("2").String() + "\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "verify:image payload") {
		t.Error("an artifact is no image")
	}
}

// E7: nothing from outside ends a fence, begins a command of a shell or a heading.
func TestE7NothingEscapesFromThePageOfARun(t *testing.T) {
	for _, text := range []string{"x\n```\n# heading", `x"] --> evil["`, "$(id)", "`id`", "<img src=x onerror=y>", "x; rm -rf /", "\x1b[31m"} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			page := pageOf(text, text, text)
			if n := strings.Count("\n"+page, "\n```"); n != 4 {
				t.Errorf("%d fences, want 4:\n%s", n, page)
			}
			prose, sh, _ := strings.Cut(page, "```sh\n")
			for line := range strings.Lines(sh) {
				if plain := strings.Split(line, "'"); len(plain)%2 == 0 && !strings.Contains(line, `\'`) {
					t.Errorf("an open quote: %q", line)
				}
			}
			_, graph, _ := strings.Cut(page, "```mermaid\n")
			graph, _, _ = strings.Cut(graph, "```")
			for line := range strings.Lines(graph) {
				if strings.Count(line, `"`)%2 != 0 || strings.Contains(line, "-->") && strings.Contains(line, `"`) && !strings.Contains(line, "&gt;") {
					t.Errorf("a node broke out: %q", line)
				}
			}
			if strings.Contains(page, "\n# heading") || strings.Contains(prose, "<img") || strings.ContainsRune(page, 0x1b) {
				t.Errorf("it acts:\n%s", page)
			}
		})
	}
}

// E7, F1: the page of a run that failed says why and what to do, in words that act on nothing.
func TestE7TheRunsPageSaysWhyItFailed(t *testing.T) {
	page := filepath.Join(t.TempDir(), "summary.md")
	job := actions.Read(func(name string) string {
		return map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": page}[name]
	})
	secrets := &term.Secrets{}
	secrets.Learn("ghs_of_the_job")
	s := &session{env: environment{job: job, secrets: secrets}}
	lines := strings.Repeat("\n## <img src=x> ```", 60)
	err := fault.New(fault.Refused, "approving", "dev", "the server says ghs_of_the_job%s", lines).WithHint("ask | somebody")
	if err := s.tellFailure(err); err != nil {
		t.Fatal(err)
	}
	if err := s.tellFailure(nil); err != nil {
		t.Fatal(err)
	}
	content, readErr := os.ReadFile(page)
	if readErr != nil {
		t.Fatal(readErr)
	}
	got := string(content)
	if !strings.HasPrefix(got, "\n**It failed: exit 30, Refused**\n\n> approving dev") || !strings.Contains(got, "22 lines more") {
		t.Errorf("the page says:\n%s", got)
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(line, "#") || strings.Contains(line, "<img") || strings.Contains(line, "```") || strings.Contains(line, "ghs_of") {
			t.Errorf("it acts, or tells a secret: %q", line)
		}
	}
}

// The run's page shows what stops a release first, each finding by its name.
func TestAGatesFindingsAreAnnotated(t *testing.T) {
	var log bytes.Buffer
	s := &session{console: actions.NewConsole(&log, rand.Reader)}
	verdict := &release.Verdict{Findings: []release.Found{
		{Finding: evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-2026-1", Severity: "CRITICAL", Title: "::error::x"}, Blocking: true},
		{Finding: evidence.Finding{Kind: evidence.Vulnerability, ID: "CVE-2026-2", Severity: "LOW"}},
	}}
	s.annotate(fault.Wrap(verdict, fault.Refused, "approving", "dev"))
	s.annotate(nil)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "::error title=exit 30%2C Refused::") || !strings.HasPrefix(lines[1], "::error title=CRITICAL CVE-2026-1::") {
		t.Errorf("the job is told\n%s", log.String())
	}
	log.Reset()
	s.annotate(errors.New("a bug"))
	if !strings.HasPrefix(log.String(), "::error title=exit 1::a bug") {
		t.Errorf("the job is told\n%s", log.String())
	}
}
