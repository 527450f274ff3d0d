package actions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/lazyregexp"
)

// Event is what started a workflow.
type Event struct {
	Name    string // push, pull_request, schedule, workflow_dispatch, …
	Ref     string // refs/heads/main; of a pull request refs/pull/7/merge
	Commit  string // 40 hex digits
	Default string // the repository's default branch
	Private bool   // the repository is not everybody's to read
	Deleted bool   // a push that took the ref away
	Fork    string // owner/name of the repository a pull request comes from, when it is another; "?" when that one is gone
	Inputs  map[string]string
}

// Limits of a payload: GitHub sends no webhook above 25 MB.
// https://docs.github.com/en/webhooks/webhook-events-and-payloads
const (
	maxPayload = 26 << 20
	maxInputs  = 25 // GitHub's own
)

var (
	commitGrammar = lazyregexp.New(`^[0-9a-f]{40}$`)
	branchGrammar = lazyregexp.New(`^[A-Za-z0-9._/+@-]{1,255}$`)
)

// ReadEvent reads the payload file of a job.
func (v Variables) ReadEvent() (Event, error) {
	f, err := os.Open(v.Payload)
	if err != nil {
		return Event{}, fault.Wrap(err, fault.Environment, "reading", "$GITHUB_EVENT_PATH")
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxPayload+1))
	if err != nil {
		return Event{}, fault.Wrap(err, fault.Environment, "reading", v.Payload)
	}
	return DecodeEvent(v, content)
}

// DecodeEvent reads a payload strictly, and refuses one that contradicts the job's variables.
func DecodeEvent(v Variables, payload []byte) (Event, error) {
	e, err := decodeEvent(v, payload)
	if err != nil {
		return Event{}, fault.Wrap(err, fault.Invalid, "reading event", v.Event)
	}
	return e, nil
}

func decodeEvent(v Variables, payload []byte) (Event, error) {
	e := Event{Name: v.Event, Ref: v.Ref, Commit: v.Commit}
	switch {
	case e.Name == "" || !strings.HasPrefix(e.Ref, "refs/") || !commitGrammar.MatchString(e.Commit):
		return e, fmt.Errorf("GITHUB_EVENT_NAME %q, GITHUB_REF %q and GITHUB_SHA %q are not those of a job", e.Name, e.Ref, e.Commit)
	case len(payload) > maxPayload:
		return e, fmt.Errorf("its payload exceeds %d bytes", maxPayload)
	}
	top, err := object(payload)
	if err != nil {
		return e, err
	}
	repository, err := top.object("repository")
	if err != nil {
		return e, err
	}
	name, err := repository.text("full_name")
	if err != nil {
		return e, err
	}
	if name != v.Repository {
		return e, fmt.Errorf("its payload is of %q, the job of %q", name, v.Repository)
	}
	if e.Private, err = repository.flag("private"); err != nil {
		return e, err
	}
	if e.Default, err = repository.text("default_branch"); err != nil || !branchGrammar.MatchString(e.Default) {
		return e, errors.Join(err, fmt.Errorf("%q is no default branch", e.Default))
	}
	return e, e.readKind(top, name)
}

// readKind reads what only some events have.
func (e *Event) readKind(top members, repository string) (err error) {
	switch e.Name {
	case "push":
		ref, err := top.text("ref")
		if err != nil {
			return err
		}
		if ref != e.Ref {
			return fmt.Errorf("its payload is of %q, the job of %q", ref, e.Ref)
		}
		e.Deleted, err = top.flag("deleted")
		return err
	case "pull_request", "pull_request_target":
		e.Fork, err = fork(top, repository)
	case "workflow_dispatch":
		e.Inputs, err = top.texts("inputs")
	}
	return err
}

// fork names the repository a pull request comes from, when it is not the one it goes to.
func fork(top members, repository string) (string, error) {
	request, err := top.object("pull_request")
	if err != nil {
		return "", err
	}
	head, err := request.object("head")
	if err != nil {
		return "", err
	}
	if string(head["repo"]) == "null" {
		return "?", nil
	}
	from, err := head.object("repo")
	if err != nil {
		return "", err
	}
	name, err := from.text("full_name")
	if err != nil || name == repository {
		return "", err
	}
	return name, nil
}

// members are those of a JSON object, by their exact names.
type members map[string]json.RawMessage

// object reads a JSON object and refuses one that two readers could read in two ways: a member twice,
// or once more in another case.
func object(content []byte) (members, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.Join(err, errors.New("it is no JSON object"))
	}
	all, folded := members{}, map[string]bool{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, _ := key.(string) // the decoder takes no other key
		if folded[strings.ToLower(name)] {
			return nil, fmt.Errorf("it has the member %q twice", name)
		}
		folded[strings.ToLower(name)] = true
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		all[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("there is more after it")
	}
	return all, nil
}

func (m members) object(name string) (members, error) {
	o, err := object(m[name])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

func (m members) text(name string) (string, error) {
	var text *string
	if err := json.Unmarshal(orNull(m[name]), &text); err != nil || text == nil {
		return "", fmt.Errorf("%s is not a text", name)
	}
	return *text, nil
}

// flag is false where the member is missing: not every server sends it.
func (m members) flag(name string) (bool, error) {
	var flag bool
	if err := json.Unmarshal(orNull(m[name]), &flag); err != nil {
		return false, fmt.Errorf("%s is neither true nor false", name)
	}
	return flag, nil
}

// texts reads the inputs of a dispatch; a workflow without inputs has null there.
func (m members) texts(name string) (map[string]string, error) {
	if raw := m[name]; raw == nil || string(raw) == "null" {
		return map[string]string{}, nil
	}
	all, err := m.object(name)
	if err != nil {
		return nil, err
	}
	if len(all) > maxInputs {
		return nil, fmt.Errorf("%s: %d members exceed the limit of %d", name, len(all), maxInputs)
	}
	texts := map[string]string{}
	for key := range all {
		if texts[key], err = all.text(key); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return texts, nil
}

func orNull(raw json.RawMessage) []byte {
	if raw == nil {
		return []byte("null")
	}
	return raw
}
