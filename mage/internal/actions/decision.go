package actions

import (
	"fmt"
	"strings"

	"github.com/containai/containai/mage/family"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
	"github.com/containai/containai/mage/release"
)

// Decision is what an event asks for.
type Decision struct {
	Channel string `json:"channel"`           // whose gate is asked; that moves, if Publish
	Version string `json:"version,omitempty"` // v1.2.3
	Commit  string `json:"commit"`            // 40 hex digits
	Tag     string `json:"tag"`               // the immutable tag of the commit
	Publish bool   `json:"publish"`           // whether anything is written outside of the job
	Build   bool   `json:"build"`             // whether the commit may be built here; otherwise it was published before
	Why     string `json:"why"`
}

// releaseVersion is how a person releases a version: a tag alone moves nothing, as the workflow that runs
// on a tag is the one of the tag's commit, and whoever may push can make both.
const releaseVersion = "gh workflow run release.yml -f channel=%s -f version=%s -f commit=%s"

var channelGrammar = lazyregexp.New(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Decide says what an event asks of a family. A pull request publishes nothing, and neither does a tag or
// a branch beside the default one. An event that nobody thought of is refused, and so is one that no
// channel takes.
func Decide(e Event, f *family.Family) (Decision, error) {
	d, err := decide(e, f)
	if err == nil && d.Channel == "" {
		return Decision{}, fault.New(fault.Refused, "releasing on", e.Name, "no channel of the family takes it").
			WithHint("give a channel of the family file `on: [push]`, `on: [schedule]` or `on: [version]`")
	}
	return d, err
}

func decide(e Event, f *family.Family) (Decision, error) {
	d := Decision{Channel: f.On(family.Push), Commit: e.Commit, Build: true}
	if why := e.Untrusted(); why != "" {
		if !e.isPull() && e.Name != "push" {
			return Decision{}, fault.New(fault.Refused, "releasing on", e.Name, "%s", why).WithHint("run the workflow on %s", e.Default)
		}
		d.Why = "nothing is published: " + why
		if version := e.tag(); e.Name == "push" && !e.Deleted && release.CheckVersion(version) == nil {
			d.Channel, d.Version, d.Build = f.On(family.Version), version, false
			d.Why += "; who may release it runs " + fmt.Sprintf(releaseVersion, d.Channel, version, e.Commit)
		}
		return d.named(), nil
	}
	switch e.Name {
	case "schedule":
		d.Channel, d.Publish = f.On(family.Schedule), true
		d.Why = "the schedule releases " + d.Channel
	case "workflow_dispatch":
		return d.dispatched(e.Inputs, f)
	default:
		d.Publish, d.Why = true, "a push to "+e.Default+" releases "+d.Channel
	}
	return d.named(), nil
}

// Untrusted says why nothing may be written in an event's name, or "" when something may: it must be
// an event that only people and schedules of the repository cause, on the branch that is released.
func (e Event) Untrusted() string {
	switch e.Name {
	case "push", "schedule", "workflow_dispatch":
	case "pull_request", "pull_request_target":
		if e.Fork != "" {
			return "it is a pull request from a fork, " + e.Fork
		}
		return "it is a pull request"
	default:
		return "no release begins with such an event"
	}
	switch {
	case e.Deleted:
		return e.Ref + " was deleted"
	case e.tag() != "":
		return e.Ref + " is a tag, which moves nothing by itself"
	case e.Ref != "refs/heads/"+e.Default:
		return e.Ref + " is not " + e.Default
	}
	return ""
}

// tag is the tag that the workflow runs on, or "".
func (e Event) tag() string {
	if tag, ok := strings.CutPrefix(e.Ref, "refs/tags/"); ok {
		return tag
	}
	return ""
}

func (e Event) isPull() bool { return e.Name == "pull_request" || e.Name == "pull_request_target" }

// dispatched reads the form that a person filled in. A commit that is named was published before: what
// is signed here is signed as the commit that the workflow runs on.
func (d Decision) dispatched(inputs map[string]string, f *family.Family) (Decision, error) {
	d.Version, d.Publish = inputs["version"], true
	if d.Version != "" {
		d.Channel = f.On(family.Version)
	}
	if chosen := inputs["channel"]; chosen != "" {
		d.Channel = chosen
	}
	if d.Channel == "" {
		return d, nil
	}
	if commit := inputs["commit"]; commit != "" && commit != d.Commit {
		d.Commit, d.Build = commit, false
	}
	if err := d.check(f.On(family.Version)); err != nil {
		return Decision{}, fault.Wrap(err, fault.Invalid, "reading", "the workflow's inputs")
	}
	d.Why = "somebody asked for " + d.Channel
	return d.named(), nil
}

func (d Decision) check(onVersion string) error {
	switch {
	case !channelGrammar.MatchString(d.Channel):
		return fmt.Errorf("%q is no channel", d.Channel)
	case !commitGrammar.MatchString(d.Commit):
		return fmt.Errorf("%q is not a commit of 40 hexadecimal digits", d.Commit)
	case d.Version == "":
		return nil
	case onVersion == "":
		return fmt.Errorf("no channel of the family takes versions")
	case d.Channel != onVersion:
		return fmt.Errorf("a version names what %s serves, and the channel is %s", onVersion, d.Channel)
	}
	return release.CheckVersion(d.Version)
}

func (d Decision) named() Decision {
	d.Tag = release.Source{Commit: d.Commit}.Tag()
	return d
}
