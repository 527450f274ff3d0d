package actions

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// command is a workflow command as the runner understood it.
type command struct {
	name       string
	properties map[string]string
	message    string
}

// obey is what GitHub's runner makes of a step's lines.
// https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
func obey(log string) []command {
	var all []command
	stopped := ""
	decode := strings.NewReplacer("%25", "%", "%0D", "\r", "%0A", "\n", "%3A", ":", "%2C", ",")
	for line := range strings.SplitSeq(strings.ReplaceAll(log, "\r", "\n"), "\n") {
		line = strings.TrimLeft(line, " \t")
		head, message, whole := strings.Cut(strings.TrimPrefix(line, "::"), "::")
		if !strings.HasPrefix(line, "::") || !whole || head == "" {
			continue
		}
		name, list, _ := strings.Cut(head, " ")
		c := command{name: name, properties: map[string]string{}, message: decode.Replace(message)}
		for p := range strings.SplitSeq(list, ",") {
			if key, value, ok := strings.Cut(p, "="); ok {
				c.properties[strings.TrimSpace(key)] = decode.Replace(value)
			}
		}
		switch {
		case stopped != "":
			if name == stopped {
				stopped = ""
			}
		case name == "stop-commands":
			stopped = message
		default:
			all = append(all, c)
		}
	}
	return all
}

func console() (*Console, *strings.Builder) {
	var log strings.Builder
	return NewConsole(&log, rand.Reader), &log
}

func hostile() []string {
	return []string{
		"::error::gotcha", "\n::set-env name=PATH::/tmp", "\r::add-mask::a", "x%0A::error::y", "100%", "a,b:c=d",
		"\x1b]0;title\x07", "::stop-commands::x\n::x::", "\u202egpj", "##[error]no", "  ::warning::indented",
	}
}

// E7: a title, a path or a message from outside stays inside of its own annotation.
func TestE7AnAnnotationBeginsNoOtherCommand(t *testing.T) {
	for _, text := range hostile() {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			c, log := console()
			c.Annotate([]Annotation{{Level: Error, File: text, Line: 3, Title: text, Message: text}})
			all := obey(log.String())
			if len(all) != 1 || all[0].name != "error" || all[0].properties["line"] != "3" || len(all[0].properties) != 3 {
				t.Errorf("the runner understood %+v\n%s", all, log)
			}
			if strings.ContainsAny(log.String(), "\x1b\u202e") {
				t.Errorf("a control character reached the log: %q", log)
			}
		})
	}
}

// E7: what a child prints is no command while the console is silenced; the console's own still are.
func TestE7AChildsOutputIsNoCommand(t *testing.T) {
	c, log := console()
	c.Silence()
	for _, text := range hostile() {
		fmt.Fprintln(log, text)
	}
	c.Annotate([]Annotation{{Level: Warning, Message: "ours"}})
	// A child that read the log so far knows the token of the first silence, which is over.
	first, _, _ := strings.Cut(strings.TrimPrefix(log.String(), "::stop-commands::"), "\n")
	fmt.Fprintf(log, "::%s::\n::error::gotcha\n", first)
	c.Resume()
	c.Group("afterwards")
	var names []string
	for _, found := range obey(log.String()) {
		names = append(names, found.name+" "+found.message)
	}
	if got, want := strings.Join(names, ", "), "warning ours, group afterwards"; got != want {
		t.Errorf("the runner obeyed %q, want %q\n%s", got, want, log)
	}
}

func FuzzE7AChildsOutputIsNoCommand(f *testing.F) {
	for _, text := range hostile() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, log := console()
		c.Silence()
		fmt.Fprintln(log, text)
		c.Resume()
		c.Annotate([]Annotation{{Level: Error, Title: text, Message: text}})
		if all := obey(log.String()); len(all) != 1 || all[0].name != "error" {
			t.Errorf("the runner obeyed %+v", all)
		}
	})
}

func TestAWeakTokenSilencesNothing(t *testing.T) {
	var log strings.Builder
	c := NewConsole(&log, strings.NewReader("short"))
	c.Silence()
	if c.Err() == nil || strings.Contains(log.String(), "stop-commands") {
		t.Errorf("without randomness it wrote %q and reports %v", log.String(), c.Err())
	}
}

// F1: a secret is hidden in every form in which it travels.
func TestF1AMaskHidesEveryForm(t *testing.T) {
	secret := "ghs_a/b+c%d é"
	c, log := console()
	c.Mask(secret)
	masked := map[string]bool{}
	for _, found := range obey(log.String()) {
		if found.name == "add-mask" {
			masked[found.message] = true
		}
	}
	for _, form := range []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.RawStdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
	} {
		if !masked[form] {
			t.Errorf("%q is not hidden", form)
		}
	}
	log.Reset()
	c.Mask("first\nsecond")
	c.Mask("")
	c.Mask("\n")
	masks := obey(log.String())
	for _, found := range masks {
		if strings.TrimSpace(found.message) == "" {
			t.Errorf("a mask of nothing hides the whole log: %+v", masks)
		}
	}
	for _, line := range []string{"first\nsecond", "first", "second"} {
		found := false
		for _, m := range masks {
			found = found || m.message == line
		}
		if !found {
			t.Errorf("%q is not hidden", line)
		}
	}
}

func TestAnnotationsFitIntoAStepBlockingOnesFirst(t *testing.T) {
	var all []Annotation
	for i := range 200 {
		all = append(all,
			Annotation{Level: Notice, Title: fmt.Sprintf("note %d", i)},
			Annotation{Level: Warning, Title: "the same everywhere", Message: fmt.Sprintf("cell %d", i%40)},
			Annotation{Level: Error, Title: fmt.Sprintf("CVE-%d", i), Message: "m"},
		)
	}
	got := Aggregate(all)
	counts := map[Level]int{}
	rank := map[Level]int{Error: 0, Warning: 1, Notice: 2}
	for i, a := range got {
		counts[a.Level]++
		if i > 0 && rank[a.Level] < rank[got[i-1].Level] {
			t.Fatalf("%s comes after %s", a.Level, got[i-1].Level)
		}
	}
	if counts[Error] != 10 || counts[Warning] != 1 || counts[Notice] != 10 {
		t.Errorf("a step shows %v", counts)
	}
	if last := got[9]; last.Title != "191 more" || !strings.Contains(last.Message, "CVE-199") {
		t.Errorf("the tenth error is %+v", last)
	}
	if cells := strings.Split(got[10].Message, "\n"); len(cells) != 40 {
		t.Errorf("the merged warning names %d cells, want 40", len(cells))
	}
	c, log := console()
	c.Annotate(all)
	if shown := obey(log.String()); len(shown) != len(got) {
		t.Errorf("the runner shows %d, want %d", len(shown), len(got))
	}
	for line := range strings.Lines(log.String()) {
		if len(line) > 4*maxMessage {
			t.Errorf("a command has %d bytes", len(line))
		}
	}
}

// outputs reads $GITHUB_OUTPUT as the runner does.
// https://github.com/actions/runner/blob/main/src/Runner.Worker/FileCommandManager.cs
func outputs(t *testing.T, content string) map[string]string {
	t.Helper()
	all := map[string]string{}
	lines := strings.Split(content, "\n")
	for i := 0; i < len(lines); i++ {
		name, delimiter, multi := strings.Cut(lines[i], "<<")
		if !multi {
			if name, value, ok := strings.Cut(lines[i], "="); ok {
				all[name] = value
			}
			continue
		}
		var value []string
		for i++; i < len(lines) && lines[i] != delimiter; i++ {
			value = append(value, lines[i])
		}
		all[name] = strings.Join(value, "\n")
	}
	return all
}

func FuzzAnOutputBeginsNoOther(f *testing.F) {
	f.Add("dev\nchannel=prod")
	f.Add("containai-00\nevil<<x\nprod\nx")
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\x00") {
			return
		}
		file := filepath.Join(t.TempDir(), "output")
		if err := WriteOutputs(file, rand.Reader, []Output{{"channel", value}, {"last", "v"}}); err != nil {
			if len(value) < 1000 {
				t.Fatal(err)
			}
			return
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := outputs(t, string(content)); len(got) != 2 || got["channel"] != value || got["last"] != "v" {
			t.Errorf("the runner reads %q", got)
		}
	})
}

// known is randomness that an attacker foresees.
type known struct{}

func (known) Read(p []byte) (int, error) { return copy(p, make([]byte, len(p))), nil }

func TestAnOutputThatHoldsItsDelimiterIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "output")
	delimiter, _ := randomToken(known{})
	for _, o := range []Output{{"a", "x\n" + delimiter + "\nb=c"}, {"a", "nul\x00"}, {"a=b", "x"}, {"", "x"}, {"A\nb", "x"}} {
		if err := WriteOutputs(file, known{}, []Output{o}); err == nil {
			t.Errorf("%q was written", o)
		}
	}
	if err := WriteOutputs(file, rand.Reader, []Output{{"a", strings.Repeat("x", maxOutputs)}}); err == nil {
		t.Error("more than the limit was written")
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused output left something: %v", err)
	}
}

// GitHub shows nothing of a summary above 1 MiB, and the step stays green.
func TestAStepsSummariesStayBelowOneMebibyte(t *testing.T) {
	file := filepath.Join(t.TempDir(), "summary.md")
	row := "| image | " + strings.Repeat("é", 100) + " |\n"
	page := "# first\n\n```sh\n" + strings.Repeat(row, 9000)
	for range 3 {
		if err := WriteSummary(file, []byte(page)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) > maxSummary || len(content) < maxSummary*9/10 {
		t.Errorf("the summary has %d bytes", len(content))
	}
	if !strings.HasSuffix(string(content), cutNote) || strings.Count(string(content), "```")%2 != 0 {
		t.Errorf("it ends with %q", content[len(content)-200:])
	}
	small := filepath.Join(t.TempDir(), "small.md")
	if err := WriteSummary(small, []byte("# whole\n")); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(small); err != nil || string(content) != "# whole\n" {
		t.Errorf("a small one became %q (%v)", content, err)
	}
}
