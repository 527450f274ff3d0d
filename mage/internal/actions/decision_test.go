package actions

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
)

const (
	here      = "1111111111111111111111111111111111111111"
	elsewhere = "2222222222222222222222222222222222222222"
)

// on is an event of a repository whose default branch is main.
func on(name, ref string) Event {
	return Event{Name: name, Ref: ref, Commit: here, Default: "main"}
}

// ours is a family with the conventional channels, theirs one with others, of which none takes schedules.
func ours() *family.Family {
	return &family.Family{Channels: map[string]family.Channel{"dev": {}, "nightly": {}, "prod": {}}}
}

func theirs() *family.Family {
	return &family.Family{Channels: map[string]family.Channel{"edge": {On: []family.Event{family.Push}}, "stable": {On: []family.Event{family.Version}}}}
}

func dispatch(ref string, inputs ...string) Event {
	e := on("workflow_dispatch", ref)
	e.Inputs = map[string]string{}
	for i := 0; i < len(inputs); i += 2 {
		e.Inputs[inputs[i]] = inputs[i+1]
	}
	return e
}

// The table of docs/github-setup.md: what each event, on each kind of ref, with each form, asks for.
// A line is "channel version commit publish build", or the kind of its refusal.
func TestEveryEventAsksForWhatTheTableSays(t *testing.T) {
	deleted := on("push", "refs/heads/main")
	deleted.Deleted = true
	gonetag := on("push", "refs/tags/v1.2.3")
	gonetag.Deleted = true
	fork := on("pull_request", "refs/pull/7/merge")
	fork.Fork = "stranger/containai"
	gone := on("pull_request_target", "refs/heads/main")
	gone.Fork = "?"
	main, tag := "refs/heads/main", "refs/tags/v1.2.3"
	for name, c := range map[string]struct {
		event Event
		want  string
	}{
		"a push to main":                       {on("push", main), "dev - here publish build"},
		"a push to another branch":             {on("push", "refs/heads/feature"), "dev - here nothing build"},
		"a push to a branch that ends in main": {on("push", "refs/heads/x/main"), "dev - here nothing build"},
		"a push of a version tag":              {on("push", tag), "prod v1.2.3 here nothing adopt"},
		"a push of a preview tag":              {on("push", "refs/tags/v1.2.3-rc.1"), "prod v1.2.3-rc.1 here nothing adopt"},
		"a push of another tag":                {on("push", "refs/tags/latest"), "dev - here nothing build"},
		"a push of a tag like main":            {on("push", "refs/tags/main"), "dev - here nothing build"},
		"a branch that is deleted":             {deleted, "dev - here nothing build"},
		"a version tag that is deleted":        {gonetag, "dev - here nothing build"},
		"a pull request":                       {on("pull_request", "refs/pull/7/merge"), "dev - here nothing build"},
		"a pull request from a fork":           {fork, "dev - here nothing build"},
		"a pull request with main's rights":    {on("pull_request_target", main), "dev - here nothing build"},
		"one of a fork that is gone":           {gone, "dev - here nothing build"},
		"the schedule":                         {on("schedule", main), "nightly - here publish build"},
		"a schedule elsewhere":                 {on("schedule", "refs/heads/feature"), "Refused"},
		"a schedule on a tag":                  {on("schedule", tag), "Refused"},

		"a form left empty":                {dispatch(main), "dev - here publish build"},
		"a form with fields left empty":    {dispatch(main, "channel", "", "version", "", "commit", ""), "dev - here publish build"},
		"a form that names dev":            {dispatch(main, "channel", "dev"), "dev - here publish build"},
		"a form that names nightly":        {dispatch(main, "channel", "nightly"), "nightly - here publish build"},
		"a form that names prod":           {dispatch(main, "channel", "prod"), "prod - here publish build"},
		"prod with a version":              {dispatch(main, "channel", "prod", "version", "v2.0.0"), "prod v2.0.0 here publish build"},
		"a version alone":                  {dispatch(main, "version", "v2.0.0"), "prod v2.0.0 here publish build"},
		"a version of another channel":     {dispatch(main, "channel", "dev", "version", "v2.0.0"), "Invalid"},
		"a version that is none":           {dispatch(main, "channel", "prod", "version", "2.0"), "Invalid"},
		"another commit":                   {dispatch(main, "channel", "prod", "commit", elsewhere), "prod - elsewhere publish adopt"},
		"this very commit":                 {dispatch(main, "channel", "prod", "commit", here), "prod - here publish build"},
		"half a commit":                    {dispatch(main, "channel", "prod", "commit", "2222222"), "Invalid"},
		"a commit that is an option":       {dispatch(main, "channel", "prod", "commit", "--exec=x"), "Invalid"},
		"a channel that is an option":      {dispatch(main, "channel", "-apply"), "Invalid"},
		"a channel of two lines":           {dispatch(main, "channel", "dev\nprod"), "Invalid"},
		"a form on another branch":         {dispatch("refs/heads/feature", "channel", "prod"), "Refused"},
		"a form on a version tag":          {dispatch(tag), "Refused"},
		"the same version on the tag":      {dispatch(tag, "version", "v1.2.3"), "Refused"},
		"another channel on a version tag": {dispatch(tag, "channel", "dev"), "Refused"},
		"a form on another tag":            {dispatch("refs/tags/nightly", "channel", "prod"), "Refused"},

		"a comment":              {on("issue_comment", main), "Refused"},
		"another workflow's end": {on("workflow_run", main), "Refused"},
		"a call from outside":    {on("repository_dispatch", main), "Refused"},
		"a GitHub release":       {on("release", tag), "Refused"},
		"a merge queue":          {on("merge_group", main), "Refused"},
		"an event of next year":  {on("telepathy", main), "Refused"},
		"no event":               {on("", main), "Refused"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(c.event, ours())
			if got := line(d, err); got != c.want {
				t.Errorf("Decide = %q (%v), want %q", got, err, c.want)
			}
			if err == nil && (d.Tag != "sha-"+d.Commit || d.Why == "") {
				t.Errorf("the decision names tag %q and reason %q", d.Tag, d.Why)
			}
			if err != nil && c.want == "Refused" && fault.HintOf(err) == "" {
				t.Error("the refusal says no way on")
			}
		})
	}
}

// A version tag moves nothing; what it says instead can be pasted.
func TestAVersionTagSaysHowItIsReleased(t *testing.T) {
	d, err := Decide(on("push", "refs/tags/v1.2.3"), ours())
	if want := "gh workflow run release.yml -f channel=prod -f version=v1.2.3 -f commit=" + here; err != nil || !strings.HasSuffix(d.Why, want) {
		t.Errorf("Why = %q, %v, want it to end in %q", d.Why, err, want)
	}
	for _, tag := range []string{"refs/tags/v1.2.3;id", "refs/tags/v1.2.3$(id)", "refs/tags/latest"} {
		if d, err := Decide(on("push", tag), ours()); err != nil || strings.Contains(d.Why, "gh workflow") {
			t.Errorf("%s: %q, %v", tag, d.Why, err)
		}
	}
}

func TestEventsReachTheChannelsThatTheFamilyNames(t *testing.T) {
	main := "refs/heads/main"
	for name, c := range map[string]struct {
		event Event
		want  string
	}{
		"a push":                      {on("push", main), "edge - here publish build"},
		"a pull request":              {on("pull_request", "refs/pull/7/merge"), "edge - here nothing build"},
		"a version tag":               {on("push", "refs/tags/v1.2.3"), "stable v1.2.3 here nothing adopt"},
		"a schedule that none takes":  {on("schedule", main), "Refused"},
		"a dispatch without a choice": {dispatch(main), "edge - here publish build"},
		"a version":                   {dispatch(main, "version", "v1.2.3"), "stable v1.2.3 here publish build"},
		"a version for another":       {dispatch(main, "version", "v1.2.3", "channel", "edge"), "Invalid"},
		"a choice":                    {dispatch(main, "channel", "stable"), "stable - here publish build"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := line(Decide(c.event, theirs())); got != c.want {
				t.Errorf("asks for %q, want %q", got, c.want)
			}
		})
	}
}

func line(d Decision, err error) string {
	if kind, ok := fault.KindOf(err); ok {
		return kind.Error()
	}
	word := func(yes bool, a, b string) string {
		if yes {
			return a
		}
		return b
	}
	commit := map[string]string{here: "here", elsewhere: "elsewhere"}[d.Commit]
	version := d.Version
	if version == "" {
		version = "-"
	}
	return strings.Join([]string{d.Channel, version, commit, word(d.Publish, "publish", "nothing"), word(d.Build, "build", "adopt")}, " ")
}

// F4: whatever else an event says, a pull request publishes nothing.
func FuzzF4APullRequestPublishesNothing(f *testing.F) {
	f.Add("pull_request", "refs/pull/7/merge", "prod", "v1.0.0", here)
	f.Add("pull_request_target", "refs/heads/main", "dev", "", "")
	f.Add("push", "refs/heads/feature", "prod", "v1.0.0", elsewhere)
	f.Fuzz(func(t *testing.T, name, ref, channel, version, commit string) {
		e := dispatch(ref, "channel", channel, "version", version, "commit", commit)
		e.Name = name
		d, err := Decide(e, ours())
		if err != nil || !d.Publish {
			return
		}
		if name != "push" && name != "schedule" && name != "workflow_dispatch" {
			t.Errorf("%q publishes %+v", name, d)
		}
		if ref != "refs/heads/main" {
			t.Errorf("%q publishes %+v", ref, d)
		}
	})
}

func variables(event string) Variables {
	return Variables{Event: event, Ref: "refs/heads/main", Commit: here, Repository: "containai/containai", running: true}
}

const repository = `"repository":{"id":4242,"full_name":"containai/containai","default_branch":"main","owner":{"id":77}}`

func TestAPayloadIsReadStrictly(t *testing.T) {
	pull := func(head string) string {
		return `{"number":7,"pull_request":{"head":` + head + `},` + repository + `}`
	}
	for name, c := range map[string]struct {
		event, payload string
		want           Event
	}{
		"a push":                {"push", `{"ref":"refs/heads/main","deleted":false,` + repository + `}`, on("push", "refs/heads/main")},
		"a schedule":            {"schedule", `{"schedule":"17 3 * * *",` + repository + `}`, on("schedule", "refs/heads/main")},
		"a form":                {"workflow_dispatch", `{"inputs":{"channel":"prod"},"ref":"refs/heads/main",` + repository + `}`, dispatch("refs/heads/main", "channel", "prod")},
		"a form without fields": {"workflow_dispatch", `{"inputs":null,` + repository + `}`, dispatch("refs/heads/main")},
		"a pull request":        {"pull_request", pull(`{"repo":{"full_name":"containai/containai"}}`), on("pull_request", "refs/heads/main")},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := DecodeEvent(variables(c.event), []byte(c.payload))
			if diff := cmp.Diff(c.want, e); err != nil || diff != "" {
				t.Errorf("DecodeEvent: %v\n%s", err, diff)
			}
		})
	}
	for payload, want := range map[string]string{
		pull(`{"repo":{"full_name":"stranger/containai"}}`): "stranger/containai",
		pull(`{"repo":null}`):                               "?",
	} {
		if e, err := DecodeEvent(variables("pull_request"), []byte(payload)); err != nil || e.Fork != want {
			t.Errorf("the fork is %q (%v), want %q", e.Fork, err, want)
		}
	}
}

func TestAPayloadThatCanBeReadInTwoWaysIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ event, payload string }{
		"nothing":                        {"push", ``},
		"no object":                      {"push", `[]`},
		"broken off":                     {"push", `{"ref":"refs/heads/main",` + repository},
		"more after it":                  {"push", `{"ref":"refs/heads/main",` + repository + `}{}`},
		"a member twice":                 {"push", `{"ref":"refs/heads/x","ref":"refs/heads/main",` + repository + `}`},
		"a member twice in another case": {"push", `{"Ref":"refs/heads/x","ref":"refs/heads/main",` + repository + `}`},
		"another case alone":             {"push", `{"Ref":"refs/heads/main",` + repository + `}`},
		"another ref than the job's":     {"push", `{"ref":"refs/heads/x",` + repository + `}`},
		"a ref that is a number":         {"push", `{"ref":7,` + repository + `}`},
		"another repository":             {"schedule", `{"repository":{"full_name":"evil/containai","default_branch":"main"}}`},
		"no repository":                  {"schedule", `{}`},
		"no default branch":              {"schedule", `{"repository":{"full_name":"containai/containai"}}`},
		"a default branch of two lines":  {"schedule", `{"repository":{"full_name":"containai/containai","default_branch":"main\nx"}}`},
		"a pull request without a head":  {"pull_request", `{"pull_request":{},` + repository + `}`},
		"a head without a repository":    {"pull_request", `{"pull_request":{"head":{}},` + repository + `}`},
		"a field that is no text":        {"workflow_dispatch", `{"inputs":{"channel":["prod"]},` + repository + `}`},
		"a field that is null":           {"workflow_dispatch", `{"inputs":{"channel":null},` + repository + `}`},
		"a field twice":                  {"workflow_dispatch", `{"inputs":{"channel":"dev","Channel":"prod"},` + repository + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			if e, err := DecodeEvent(variables(c.event), []byte(c.payload)); !errors.Is(err, fault.Invalid) {
				t.Errorf("DecodeEvent = %+v, %v, want Invalid", e, err)
			}
		})
	}
	many := strings.Builder{}
	for i := range maxInputs + 1 {
		fmt.Fprintf(&many, `,"i%d":""`, i)
	}
	if _, err := DecodeEvent(variables("workflow_dispatch"), []byte(`{"inputs":{`+many.String()[1:]+`},`+repository+`}`)); !errors.Is(err, fault.Invalid) {
		t.Errorf("a form of %d fields: %v, want Invalid", maxInputs+1, err)
	}
}

func TestAJobWithoutItsVariablesHasNoEvent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(file, []byte(`{"ref":"refs/heads/main",`+repository+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := variables("push")
	whole.Payload = file
	if e, err := whole.ReadEvent(); err != nil || e.Default != "main" {
		t.Fatalf("ReadEvent = %+v, %v", e, err)
	}
	for name, spoil := range map[string]func(*Variables){
		"no name":         func(v *Variables) { v.Event = "" },
		"no ref":          func(v *Variables) { v.Ref = "main" },
		"no commit":       func(v *Variables) { v.Commit = "HEAD" },
		"no repository":   func(v *Variables) { v.Repository = "" },
		"no payload file": func(v *Variables) { v.Payload = file + ".gone" },
		"no payload":      func(v *Variables) { v.Payload = "" },
	} {
		t.Run(name, func(t *testing.T) {
			v := whole
			spoil(&v)
			if _, err := v.ReadEvent(); err == nil {
				t.Error("an event was read")
			}
		})
	}
}

func FuzzDecodeEvent(f *testing.F) {
	f.Add("push", []byte(`{"ref":"refs/heads/main","deleted":true,`+repository+`}`))
	f.Add("workflow_dispatch", []byte(`{"inputs":{"channel":"prod"},`+repository+`}`))
	f.Add("pull_request", []byte(`{"pull_request":{"head":{"repo":null}},`+repository+`}`))
	f.Fuzz(func(t *testing.T, name string, payload []byte) {
		e, err := DecodeEvent(variables(name), payload)
		if err == nil && (e.Name != name || !branchGrammar.MatchString(e.Default)) {
			t.Errorf("it was read as %+v", e)
		}
		if err == nil {
			_, _ = Decide(e, ours())
		}
	})
}
