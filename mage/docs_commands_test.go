package mage_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNoCommandIsDocumentedThatNothingRuns: each command of a fenced block of the pages is one that a test
// runs, or stands in docs/not-shown.md with its reason. A target counts as run with its flags: the same target
// with the same flags and as many words stands in a script or in a test; what the flags say may differ.
func TestNoCommandIsDocumentedThatNothingRuns(t *testing.T) {
	tests, run, all := testFunctions(t), runTargets(t), pages(t)
	notShown := spaces.ReplaceAllString(all["docs/not-shown.md"], " ")
	for _, page := range slices.Sorted(maps.Keys(all)) {
		for _, command := range commandsOf(all[page]) {
			if strings.Contains(notShown, "`"+command+"`") {
				continue
			}
			if why := notRun(command, tests, run); why != "" {
				t.Errorf("%s: %s: %s", page, command, why)
			}
		}
	}
}

// notRun says why nothing runs a command, or "".
func notRun(command string, tests map[string]string, run map[string]bool) string {
	words := strings.Fields(variables.ReplaceAllString(command, ""))
	if len(words) == 0 || words[0] == "echo" {
		return ""
	}
	if target, ok := targetOf(words); ok && run[shape(target)] {
		return ""
	}
	if pattern := goTest.FindStringSubmatch(strings.Join(words, " ")); pattern != nil {
		named := regexp.MustCompile(strings.ReplaceAll(pattern[1], "^$", "^nothing$"))
		for name := range tests {
			if named.MatchString(strings.TrimPrefix(name, "Benchmark")) || named.MatchString(name) {
				return ""
			}
		}
		return "there is no such test"
	}
	for _, s := range shown() {
		if !regexp.MustCompile(s.command).MatchString(strings.Join(words, " ")) {
			continue
		}
		if tests[s.test] == "" {
			return "there is no " + s.test
		}
		return ""
	}
	return "no test is known to run it, and docs/not-shown.md does not have it"
}

// shown are the commands of other programs than Mage, and the test that runs each.
func shown() []struct{ command, test string } {
	const peers = "TestOtherMakersToolsReadAndVerifyWhatWeReleased"
	return []struct{ command, test string }{
		{`^crane (digest|manifest) `, peers},
		{`^(oras (discover|pull)|skopeo inspect) `, peers},
		{`^cosign (verify|verify-attestation|download attestation) `, peers},
		{`^(npm ci --ignore-scripts --prefix testdata/peers-js|node testdata/peers-js/verify.mjs )`, peers},
		{`^cosign verify --key cosign.pub `, "TestACosignKeyPairSignsAndItsOldSignaturesAreRead"},
		{`^docker buildx create --name pair `, "TestTwoNodesBuildOnePlatformEach"},
		{`^go build .* ./mage/cmd/verify$`, "TestTheVerifierIsTheSameBytesFromTwoDirectories"},
		{`^containai-verify (channel|image|sbom|offline) `, "TestConsumersOfThisMachinesReleases"},
		{`^(sh containai-installer.sh --(channel|status)\b|containai-update$|containai-update --rollback$)`, "TestInstaller"},
		{`^git -C .containai/ledger.git update-ref `, "TestScripts"},
		{`^go tool mage local:serve$`, peers},
		{`^(go run \S+/mage/cmd/init@latest|go mod tidy &&|git (init|add|commit) .*&&)$`, "TestAStrangersProjectIsReleasedAsTheAdoptionPageSays"},
		{`^go tool mage (test|testDeep|lint|bench)$`, "TestMageList"},
		{`^go tool mage -l$`, "TestMageList"},
	}
}

var (
	spaces    = regexp.MustCompile(`\s+`)
	variables = regexp.MustCompile(`^([A-Z]\w*=("[^"]*"|\$\([^)]*\)|[^\s"$])*\s*)+`)
	fence     = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")
	continued = regexp.MustCompile(`\s*\\\n\s*`)
	comment   = regexp.MustCompile(`\s+#.*$`)

	targetName = regexp.MustCompile(`^(artifacts|build|family|inspect|local|ops|release|verify):[a-zA-Z]+$`)
	goTest     = regexp.MustCompile(`^go test .*-(?:run|bench) '?([^' ]+)`)
)

// commandsOf are the commands of a page's blocks: every line of sh and shell, and of console those behind "$ ".
func commandsOf(page string) []string {
	var commands []string
	for _, block := range fence.FindAllStringSubmatch(page, -1) {
		if !slices.Contains([]string{"sh", "shell", "console"}, block[1]) {
			continue
		}
		for line := range strings.Lines(continued.ReplaceAllString(block[2], " ")) {
			line = strings.TrimSpace(comment.ReplaceAllString(" "+strings.TrimSpace(line), ""))
			typed, ok := strings.CutPrefix(line, "$ ")
			if block[1] == "console" && !ok {
				continue
			}
			if ok {
				line = typed
			}
			if line != "" {
				commands = append(commands, spaces.ReplaceAllString(line, " "))
			}
		}
	}
	return commands
}

// targetOf are the target of a command of Mage and what follows it.
func targetOf(words []string) ([]string, bool) {
	for i, word := range words {
		if (word == "mage" || strings.HasSuffix(word, "/mage")) && i+1 < len(words) && strings.Contains(words[i+1], ":") {
			return words[i+1:], true
		}
	}
	return nil, false
}

// shape is a target with the names of its flags and the number of its other words.
func shape(words []string) string {
	var flags []string
	others := 0
	inQuotes := false
	for _, word := range words[1:] {
		quotes := strings.Count(word, "'")
		switch {
		case inQuotes:
		case strings.HasPrefix(word, "-"):
			name, _, _ := strings.Cut(word, "=")
			flags = append(flags, strings.Trim(name, "'"))
		default:
			others++
		}
		inQuotes = inQuotes != (quotes%2 == 1)
	}
	slices.Sort(flags)
	return fmt.Sprintf("%s %s +%d", strings.ToLower(words[0]), strings.Join(flags, " "), others)
}

// runTargets are the shapes of all targets that scripts and tests run.
func runTargets(t *testing.T) map[string]bool {
	t.Helper()
	run := map[string]bool{}
	scripts, err := filepath.Glob("../testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	command := regexp.MustCompile(`(?m)^(?:! )?(?:exec|exits \d+|shown \S+) (?:sh -c .*&& )?(mage .*)$`)
	for _, script := range scripts {
		for _, line := range command.FindAllStringSubmatch(string(must(os.ReadFile(script))), -1) {
			if target, ok := targetOf(strings.Fields(line[1])); ok {
				run[shape(target)] = true
			}
		}
	}
	for _, s := range sources(t) {
		if s.test {
			ast.Inspect(s.file, func(n ast.Node) bool {
				if words := targetIn(n); words != nil {
					run[shape(words)] = true
				}
				return true
			})
		}
	}
	return run
}

// targetIn finds a target and what follows it among the arguments of a call or the elements of a list.
func targetIn(n ast.Node) []string {
	var list []ast.Expr
	switch n := n.(type) {
	case *ast.CallExpr:
		list = n.Args
	case *ast.CompositeLit:
		list = n.Elts
	}
	var words []string
	for _, e := range list {
		word := beginning(e)
		if words != nil || targetName.MatchString(word) {
			words = append(words, word)
		}
	}
	return words
}

// beginning is what a string expression begins with, as far as it is written out.
func beginning(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return beginning(e.X)
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			return must(strconv.Unquote(e.Value))
		}
	}
	return "?"
}
