package term_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/containai/containai/mage/internal/term"
)

// Row E7: text from outside that wants to act.
func TestE7Escape(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"plain text stays":                {"RUN npm ci && echo 'ü 界 🙂'", "RUN npm ci && echo 'ü 界 🙂'"},
		"a line end is visible":           {"a\r\nb\tc", `a\r\nb\tc`},
		"an ANSI sequence is visible":     {"\x1b[31mred\x1b]0;title\x07", `\x1b[31mred\x1b]0;title\x07`},
		"a C1 sequence is visible":        {"\u009b31m", `\u009b31m`},
		"a bidi override is visible":      {"a\u202etxt\u2066", `a\u202etxt\u2066`},
		"a zero-width space is visible":   {"a\u200bb\ufeff", `a\u200bb\ufeff`},
		"a no-break space is visible":     {"a\u00a0b", `a\u00a0b`},
		"a tag character is visible":      {"\U000E0041", `\U000e0041`},
		"a line separator is visible":     {"a\u2028b", `a\u2028b`},
		"broken UTF-8 is visible":         {"a\xff\xc3", `a\xff\xc3`},
		"a NUL and a delete are visible":  {"\x00\x7f", `\x00\x7f`},
		"a real replacement rune is kept": {"\ufffd", "\ufffd"},
		"an old workflow command is none": {"a ##[error]b ###[x]", `a ##\x5berror]b ###\x5bx]`},
		"a workflow command is none":      {"::set-output name=a::b", `\x3a:set-output name=a::b`},
		"blanks before it do not help":    {"  ::error::b", `  \x3a:error::b`},
		"two colons elsewhere stay":       {"std::string: ::1", "std::string: ::1"},
		"nothing stays nothing":           {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := term.Escape(test.in); got != test.want {
				t.Errorf("Escape(%q) = %q, want %q", test.in, got, test.want)
			}
		})
	}
}

func TestE7EscapeLines(t *testing.T) {
	in := "first\n::error::a\r\n\n \t::add-mask::b\n  ::c::\x1b[2J"
	want := "first\n\\x3a:error::a\\r\n\n \\t::add-mask::b\n  \\x3a:c::\\x1b[2J"
	if got := term.EscapeLines(in); got != want {
		t.Errorf("EscapeLines(%q) = %q, want %q", in, got, want)
	}
}

func TestE7EscapeCommand(t *testing.T) {
	for name, test := range map[string]struct{ in, data, property string }{
		"a percent sign is encoded first": {"100%0A", "100%250A", "100%250A"},
		"line ends are encoded":           {"a\r\n::error::b", "a%0D%0A::error::b", "a%0D%0A%3A%3Aerror%3A%3Ab"},
		"a property ends at no comma":     {"a,line=1:x", "a,line=1:x", "a%2Cline=1%3Ax"},
		"an escape sequence is visible":   {"\x1b[2J", `\x1b[2J`, `\x1b[2J`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := term.EscapeCommand(test.in); got != test.data {
				t.Errorf("EscapeCommand(%q) = %q, want %q", test.in, got, test.data)
			}
			if got := term.EscapeProperty(test.in); got != test.property {
				t.Errorf("EscapeProperty(%q) = %q, want %q", test.in, got, test.property)
			}
		})
	}
}

func TestE7EscapeMarkdown(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"versions and paths stay readable": {"openssl 3.0.11-1~deb12u2 in usr/lib", `openssl 3.0.11-1\~deb12u2 in usr/lib`},
		"HTML is text":                     {`<img src=x onerror="a()">`, `&#60;img src\=x onerror\=&#34;a()&#34;&#62;`},
		"an entity is text":                {"&lt;", "&#38;lt;"},
		"a link is text":                   {"[a](http://b)", `\[a\](http\://b)`},
		"a bare link is text":              {"https://evil www.evil WWW.evil", `https\://evil www\.evil WWW\.evil`},
		"a cell cannot end":                {"a|b\n|c", `a\|b\\n\|c`},
		"emphasis and code are text":       {"*a* _b_ `c` ~~d~~", "\\*a\\* \\_b\\_ \\`c\\` \\~\\~d\\~\\~"},
		"a heading is text":                {"# a", `\# a`},
		"a list is text":                   {"- a", `\- a`},
		"a numbered list is text":          {" 12. a", ` 12\. a`},
		"another numbered list is text":    {"3) a", `3\) a`},
		"a mention is text":                {"@team", "&#64;team"},
		"a formula is text":                {"$x^2$", `\$x\^2\$`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := term.EscapeMarkdown(test.in); got != test.want {
				t.Errorf("EscapeMarkdown(%q) = %q, want %q", test.in, got, test.want)
			}
		})
	}
}

// FuzzEscape: whatever comes in, what goes out cannot act where it goes.
func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"", "plain", "\x1b[31m", "a\r\n::set-env name=A::b", " ::error::b\n ::c", "\u202e\u200b", "\xff\xfe", "|<b>&#60;", "%0A", "www.a", "1. a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for name, escape := range map[string]func(string) string{
			"Escape": term.Escape, "EscapeCommand": term.EscapeCommand, "EscapeProperty": term.EscapeProperty, "EscapeMarkdown": term.EscapeMarkdown,
		} {
			out := escape(s)
			if !utf8.ValidString(out) || strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s(%q) = %q holds something invisible", name, s, out)
			}
		}
		for _, line := range strings.Split(term.EscapeLines(s), "\n") {
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.HasPrefix(strings.TrimSpace(line), "::") {
				t.Errorf("EscapeLines(%q) has the line %q", s, line)
			}
		}
		if again := term.EscapeLines(term.EscapeLines(s)); again != term.EscapeLines(s) {
			t.Errorf("EscapeLines is not idempotent on %q", s)
		}
		if strings.Contains(term.Escape(s), "##[") || strings.HasPrefix(strings.TrimSpace(term.Escape(s)), "::") {
			t.Errorf("Escape(%q) = %q is a workflow command", s, term.Escape(s))
		}
		if again := term.Escape(term.Escape(s)); again != term.Escape(s) {
			t.Errorf("Escape is not idempotent on %q", s)
		}
		if strings.ContainsAny(term.EscapeProperty(s), ":,") {
			t.Errorf("EscapeProperty(%q) = %q ends the property", s, term.EscapeProperty(s))
		}
		if strings.ContainsAny(term.EscapeMarkdown(s), "<>\"'@") {
			t.Errorf("EscapeMarkdown(%q) = %q holds HTML", s, term.EscapeMarkdown(s))
		}
	})
}

func TestTableAlignsEscapedCells(t *testing.T) {
	table := term.Table{
		Head: []string{"image", "platform", "verdict"},
		Rows: [][]string{
			{"containai-base", "linux/amd64", "clean"},
			{"containai", "linux/arm64", "NOT SCANNED"},
			{"ev\x1bil\n", "界界", ""},
			{"short row"},
		},
	}
	want := "" +
		"image           platform     verdict\n" +
		"containai-base  linux/amd64  clean\n" +
		"containai       linux/arm64  NOT SCANNED\n" +
		"ev\\x1bil\\n      界界\n" +
		"short row\n"
	if got := table.String(); got != want {
		t.Errorf("table =\n%s\nwant\n%s", got, want)
	}
	var b strings.Builder
	if n, err := table.WriteTo(&b); err != nil || b.String() != want || n != int64(len(want)) {
		t.Errorf("WriteTo = %d, %v", n, err)
	}
	if got := (term.Table{}).String(); got != "" {
		t.Errorf("an empty table prints %q", got)
	}
}
