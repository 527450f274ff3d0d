package mage

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"gopkg.in/yaml.v3"
)

const workflowDir = "../.github/workflows"

// workflow is what the rules look at.
type workflow struct {
	On          map[string]yaml.Node `yaml:"on"`
	Permissions *map[string]string   `yaml:"permissions"`
	Env         map[string]string    `yaml:"env"`
	Concurrency concurrency          `yaml:"concurrency"`
	Jobs        map[string]*ciJob    `yaml:"jobs"`

	file string
	text string
}

type concurrency struct {
	Group  string `yaml:"group"`
	Cancel bool   `yaml:"cancel-in-progress"`
	Queue  string `yaml:"queue"`
}

type ciJob struct {
	RunsOn      string             `yaml:"runs-on"`
	Uses        string             `yaml:"uses"`
	Needs       any                `yaml:"needs"`
	If          string             `yaml:"if"`
	Secrets     any                `yaml:"secrets"`
	Environment string             `yaml:"environment"`
	Timeout     int                `yaml:"timeout-minutes"`
	Permissions *map[string]string `yaml:"permissions"`
	Outputs     map[string]string  `yaml:"outputs"`
	Env         map[string]string  `yaml:"env"`
	With        map[string]string  `yaml:"with"`
	Concurrency concurrency        `yaml:"concurrency"`
	Continue    any                `yaml:"continue-on-error"`
	Container   any                `yaml:"container"`
	Services    any                `yaml:"services"`
	Steps       []*ciStep          `yaml:"steps"`
}

type ciStep struct {
	ID       string            `yaml:"id"`
	If       string            `yaml:"if"`
	Uses     yaml.Node         `yaml:"uses"`
	Run      string            `yaml:"run"`
	Shell    string            `yaml:"shell"`
	Env      map[string]string `yaml:"env"`
	With     map[string]string `yaml:"with"`
	Continue any               `yaml:"continue-on-error"`
}

func readWorkflow(file, text string) (*workflow, error) {
	w := &workflow{file: file, text: text}
	return w, yaml.Unmarshal([]byte(text), w)
}

func readWorkflows(t *testing.T) []*workflow {
	t.Helper()
	files, err := filepath.Glob(workflowDir + "/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	var all []*workflow
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		w, err := readWorkflow(filepath.Base(file), string(content))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, w)
	}
	return all
}

// rule is one thing that holds in every workflow, and a change of a file that it must find.
type rule struct {
	name      string
	complain  func(w *workflow) []string
	mutations []mutation
}

type mutation struct{ file, old, new string }

func rules() []rule {
	return []rule{
		{"starts by events that show no secret to strangers", eventsOf, []mutation{
			{"pull-request.yml", "  pull_request:\n", "  pull_request_target:\n"},
			{"care.yml", "  workflow_dispatch:\n", "  workflow_dispatch:\n  workflow_run:\n    workflows: [Test]\n"},
			{"release.yml", "  schedule:\n", "  pull_request:\n  schedule:\n"},
			{"release.yml", "branches: [main]", "branches: [main, next]"},
		}},
		{"grants nothing at the top", topPermissions, []mutation{
			{"test.yml", "permissions: {}\n", "permissions: {contents: read}\n"},
			{"release.yml", "\npermissions: {}\n", "\n"},
		}},
		{"grants each job what it needs and no more", jobPermissions, []mutation{
			{"build.yml", "    permissions: {}\n", "    permissions: {contents: read}\n"},
			{"pull-request.yml", "      contents: read\n", "      contents: read\n      packages: write\n"},
			{"care.yml", "      packages: read\n", "      packages: write\n"},
			{"build.yml", "      attestations: write", "      statuses: write"},
			{"rollback.yml", "      id-token: write\n", "      id-token: write\n      attestations: write\n"},
			{"rollback.yml", "    permissions:\n      contents: write\n      packages: write\n      id-token: write\n", ""},
		}},
		{"uses few actions, by commit and with their version", actionsOf, []mutation{
			{"test.yml", "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "actions/checkout@v7"},
			{"test.yml", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@3d3c42e5aac5ba805825da76410c181273ba90b1"},
			{"test.yml", "actions/setup-go@", "evil/setup-go@"},
			{"care.yml", "@924ae3a1cded613372ab5595356fb5720e22ba16", "@0000000000000000000000000000000000000000"},
			{"release.yml", "./.github/workflows/build.yml", "evil/workflows/.github/workflows/build.yml@3d3c42e5aac5ba805825da76410c181273ba90b1"},
		}},
		{"leaves no credential in a checkout", checkouts, []mutation{
			{"release.yml", "persist-credentials: false, ", ""},
			{"build.yml", "persist-credentials: false", "persist-credentials: true"},
			{"pull-request.yml", "fetch-depth: 0}", "fetch-depth: 0, ref: \"${{ github.event.pull_request.head.sha }}\"}"},
		}},
		{"runs one program, made once, and becomes it", runsOf, []mutation{
			{"release.yml", "run: exec \"$RUNNER_TEMP/mage\" release:event", "run: command \"$RUNNER_TEMP/mage\" release:event"},
			{"release.yml", "run: exec \"$RUNNER_TEMP/mage\" release:event", "run: go tool mage release:event"},
			{"care.yml", "run: exec \"$RUNNER_TEMP/mage\" ops:fsck", "run: exec \"$RUNNER_TEMP/mage\" ops:fsck; true"},
			{"test.yml", "      - run: exec go tool mage -compile \"$RUNNER_TEMP/mage\"\n", ""},
			{"rollback.yml", "run: exec go tool", "shell: python\n        run: exec go tool"},
			{"build.yml", "      - id: build\n", "      - run: exec sudo apt-get install -y -q --no-install-recommends qemu-user-static\n      - id: build\n"},
		}},
		{"puts no expression into a script", scriptsOf, []mutation{
			{"rollback.yml", "-reason=\"$REASON\"", "-reason=\"${{ inputs.reason }}\""},
			{"release.yml", "release:to \"$CHANNEL\"", "release:to \"${{ needs.plan.outputs.channel }}\""},
		}},
		{"hands the token to one step, and to none beside untrusted code", tokensOf, []mutation{
			{"build.yml", "env: {CONTAINAI_PLATFORMS: \"linux/amd64,linux/arm64\"}", "env: {GITHUB_TOKEN: \"${{ github.token }}\"}"},
			{"build.yml", "CONTAINAI_PLATFORMS: linux/amd64}", "CONTAINAI_PLATFORMS: linux/amd64, GITHUB_TOKEN: \"${{ github.token }}\"}"},
			{"pull-request.yml", "release:pr\n", "release:pr\n        env: {GITHUB_TOKEN: \"${{ github.token }}\"}\n"},
			{"care.yml", "  CONTAINAI_REGISTRY: ghcr", "  GITHUB_TOKEN: ${{ github.token }}\n  CONTAINAI_REGISTRY: ghcr"},
			{"release.yml", "fetch-depth: 0}", "fetch-depth: 0, token: \"${{ github.token }}\"}"},
		}},
		{"has no secret that lives longer than a job", secretsOf, []mutation{
			{"release.yml", "    with:\n      channel:", "    secrets: inherit\n    with:\n      channel:"},
			{"rollback.yml", "${{ github.token }}", "${{ secrets.DEPLOY_TOKEN }}"},
			{"rollback.yml", "${{ github.token }}", "${{ secrets['DEPLOY_TOKEN'] }}"},
		}},
		{"F5 reads no cache that another run could have filled", cachesOf, []mutation{
			{"build.yml", "cache: false", "cache: true"},
			{"test.yml", ", cache: false}", "}"},
			{"build.yml", "CONTAINAI_PLATFORMS: linux/arm64}", "CONTAINAI_PLATFORMS: linux/arm64, BUILDX_CACHE: type=gha}"},
		}},
		{"moves channels one after the other and drops none", queues, []mutation{
			{"release.yml", "      queue: max\n", ""},
			{"rollback.yml", "  cancel-in-progress: false\n", "  cancel-in-progress: true\n"},
			{"care.yml", "  queue: max\n", ""},
			{"release.yml", "group: channel-${{ needs.plan.outputs.channel }}", "group: release"},
		}},
		{"ends, on a machine of GitHub's", machines, []mutation{
			{"test.yml", "    timeout-minutes: 120\n", ""},
			{"care.yml", "    timeout-minutes: 45\n", "    timeout-minutes: 360\n"},
			{"build.yml", "runs-on: ubuntu-24.04-arm", "runs-on: self-hosted"},
			{"test.yml", "runs-on: ubuntu-24.04", "runs-on: ubuntu-latest"},
			{"test.yml", "    runs-on: ubuntu-24.04\n", "    runs-on: ubuntu-24.04\n    continue-on-error: true\n"},
			{"test.yml", "    runs-on: ubuntu-24.04\n", "    runs-on: ubuntu-24.04\n    container: debian\n"},
		}},
		{"asks before it moves prod", approvals, []mutation{
			{"release.yml", "    environment: ${{ needs.plan.outputs.channel }} # prod waits for an approval; what it does is planned after it\n", ""},
			{"rollback.yml", "    environment: rollback # who may start it is said there\n", ""},
			{"care.yml", "    environment: rollback\n", ""},
			{"care.yml", "ops:refresh -apply", "ops:refresh -early -apply"},
		}},
		{"builds and signs in build.yml alone, behind the inspection", builders, []mutation{
			{"release.yml", "release:to \"$CHANNEL\" -version", "release:to \"$CHANNEL\" -until=attest -version"},
			{"build.yml", "    needs: inspect\n", "    needs: [amd64, arm64]\n"},
			{"build.yml", "          CONTAINAI_HANDOVER: ${{ needs.inspect.outputs.handover }}\n", ""},
			{"build.yml", "-until=attest", "-until=promote"},
			{"build.yml", "  workflow_call:\n", "  push:\n  workflow_call:\n"},
		}},
	}
}

func TestWorkflowsFollowTheRules(t *testing.T) {
	all := readWorkflows(t)
	text := map[string]string{}
	for _, w := range all {
		text[w.file] = w.text
	}
	for _, r := range rules() {
		t.Run(r.name, func(t *testing.T) {
			for _, w := range all {
				for _, complaint := range r.complain(w) {
					t.Errorf("%s: %s", w.file, complaint)
				}
			}
			for i, m := range r.mutations {
				if !strings.Contains(text[m.file], m.old) {
					t.Fatalf("mutation %d: %s has no %q any more", i, m.file, m.old)
				}
				broken, err := readWorkflow(m.file, strings.Replace(text[m.file], m.old, m.new, 1))
				if err != nil {
					t.Fatalf("mutation %d is no YAML: %v", i, err)
				}
				if len(r.complain(broken)) == 0 {
					t.Errorf("the rule does not see %q instead of %q in %s", m.new, m.old, m.file)
				}
			}
		})
	}
}

// events are those of docs/github-setup.md. Pull requests start what has no right to write.
func eventsOf(w *workflow) []string {
	want := map[string][]string{
		"pull-request.yml": {"pull_request"}, "test.yml": {"pull_request", "push"}, "build.yml": {"workflow_call"},
		"release.yml": {"push", "schedule", "workflow_dispatch"}, "care.yml": {"schedule", "workflow_dispatch"}, "rollback.yml": {"workflow_dispatch"},
	}
	var all []string
	if got := slices.Sorted(maps.Keys(w.On)); !slices.Equal(got, want[w.file]) {
		all = append(all, fmt.Sprintf("starts by %q, not by %q", got, want[w.file]))
	}
	var push struct{ Branches, Tags []string }
	node := w.On["push"]
	if err := node.Decode(&push); err != nil {
		return append(all, err.Error())
	}
	if len(push.Branches) > 0 && !slices.Equal(push.Branches, []string{"main"}) || len(push.Tags) > 0 && !slices.Equal(push.Tags, []string{"v*"}) {
		all = append(all, fmt.Sprintf("starts by pushes to %q and %q", push.Branches, push.Tags))
	}
	return all
}

func topPermissions(w *workflow) []string {
	if w.Permissions == nil || len(*w.Permissions) > 0 {
		return []string{"grants something to every job, or what the repository's settings say"}
	}
	return nil
}

func jobPermissions(w *workflow) []string {
	mover := map[string]string{"contents": "write", "packages": "write", "id-token": "write"}
	builder := map[string]string{"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"}
	reader := map[string]string{"contents": "read"}
	want := map[string]map[string]string{
		"pull-request.yml build": reader, "test.yml test": reader,
		"build.yml amd64": reader, "build.yml arm64": reader, "build.yml inspect": {}, "build.yml publish": builder,
		"release.yml plan": {"contents": "read", "packages": "read", "attestations": "read"}, "release.yml build": builder, "release.yml promote": mover,
		"rollback.yml rollback": mover,
		"care.yml check":        {"contents": "read", "packages": "read"}, "care.yml refresh": mover, "care.yml reissue": mover,
		"care.yml mirror": {"contents": "read", "packages": "write"}, "care.yml prune": {"contents": "read", "packages": "write"},
	}
	var all []string
	for name, j := range w.Jobs {
		expected, known := want[w.file+" "+name]
		if !known || j.Permissions == nil || !maps.Equal(*j.Permissions, expected) {
			all = append(all, fmt.Sprintf("%s has %v, needs %v", name, j.Permissions, expected))
		}
	}
	return all
}

// pins are the actions and where each stands; a new version is a change here as well.
func pins() map[string]string {
	return map[string]string{
		"actions/checkout":          "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
		"actions/setup-go":          "924ae3a1cded613372ab5595356fb5720e22ba16 # v6.5.0",
		"actions/upload-artifact":   "043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
		"actions/download-artifact": "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1",
	}
}

func actionsOf(w *workflow) []string {
	var all []string
	for name, j := range w.Jobs {
		if j.Uses != "" && j.Uses != "./.github/workflows/build.yml" {
			all = append(all, name+" calls "+j.Uses)
		}
	}
	for _, s := range w.steps() {
		if s.Uses.Value == "" {
			continue
		}
		action, pin, _ := strings.Cut(s.Uses.Value, "@")
		if pins()[action] == "" || pins()[action] != pin+" "+s.Uses.LineComment {
			all = append(all, fmt.Sprintf("uses %s %s", s.Uses.Value, s.Uses.LineComment))
		}
	}
	return all
}

// steps are all steps of a workflow.
func (w *workflow) steps() []*ciStep {
	var all []*ciStep
	for _, name := range slices.Sorted(maps.Keys(w.Jobs)) {
		all = append(all, w.Jobs[name].Steps...)
	}
	return all
}

func checkouts(w *workflow) []string {
	var all []string
	for _, s := range w.steps() {
		if strings.HasPrefix(s.Uses.Value, "actions/checkout@") && !maps.Equal(s.With, map[string]string{"persist-credentials": "false", "fetch-depth": "0"}) {
			all = append(all, fmt.Sprintf("checks out with %v", s.With))
		}
	}
	return all
}

const (
	compileLine  = `exec go tool mage -compile "$RUNNER_TEMP/mage"`
	emulatorLine = `exec sudo apt-get install -y -q --no-install-recommends qemu-user-static`
)

var programLine = regexp.MustCompile(`^exec "\$RUNNER_TEMP/mage" [a-z]+(:[a-z]+)?( (-[a-z]+(=[a-z]+|="\$[A-Z]+")?|"\$[A-Z_]+(/[a-z0-9]+,\$RUNNER_TEMP/[a-z0-9]+)?"))*$`)

// runsOf: mage itself does not pass every signal on, so that the shell becomes the program that was
// compiled; what compiles it is the one before it in every job. The one other program that runs brings
// the emulator, where nothing could be stolen.
func runsOf(w *workflow) []string {
	var all []string
	for name, j := range w.Jobs {
		compiled := false
		for _, s := range j.Steps {
			line, _, _ := strings.Cut(s.Run, " # ")
			switch line = strings.TrimSpace(line); {
			case s.Shell != "":
				all = append(all, name+" changes the shell")
			case line == "":
			case line == compileLine:
				compiled = true
			case line == emulatorLine && j.Permissions != nil && len(*j.Permissions) == 0:
			case !compiled || !programLine.MatchString(line):
				all = append(all, fmt.Sprintf("%s runs %q", name, s.Run))
			}
		}
	}
	return all
}

func scriptsOf(w *workflow) []string {
	var all []string
	for _, s := range w.steps() {
		if strings.Contains(s.Run, "${{") {
			all = append(all, fmt.Sprintf("%q holds an expression", s.Run))
		}
	}
	return all
}

// tokensOf: a token is the variable of one step, in a job that runs nothing of others: no build, no
// inspection, no test.
func tokensOf(w *workflow) []string {
	allowed := []string{
		"release.yml plan", "release.yml promote", "build.yml publish", "rollback.yml rollback", "care.yml check", "care.yml refresh", "care.yml reissue", "care.yml mirror", "care.yml prune",
	}
	var all []string
	count := 0
	for name, j := range w.Jobs {
		for _, s := range j.Steps {
			if s.Env["GITHUB_TOKEN"] == "${{ github.token }}" && strings.HasPrefix(s.Run, `exec "$RUNNER_TEMP/mage" `) {
				count++
				if !slices.Contains(allowed, w.file+" "+name) {
					all = append(all, name+" gets a token")
				}
			}
		}
	}
	if n := strings.Count(w.text, "github.token") + strings.Count(w.text, "github['token']"); n != count {
		all = append(all, fmt.Sprintf("%d of %d tokens are not the variable of one step", n-count, n))
	}
	return all
}

func secretsOf(w *workflow) []string {
	var all []string
	if regexp.MustCompile(`\bsecrets\b`).MatchString(w.text) {
		all = append(all, "names a secret")
	}
	return all
}

func cachesOf(w *workflow) []string {
	var all []string
	for _, s := range w.steps() {
		if strings.HasPrefix(s.Uses.Value, "actions/setup-go@") && !maps.Equal(s.With, map[string]string{"go-version-file": "go.mod", "cache": "false"}) {
			all = append(all, fmt.Sprintf("sets up Go with %v", s.With))
		}
	}
	if strings.Contains(w.text, "gha") || strings.Contains(w.text, "actions/cache") {
		all = append(all, "names GitHub's cache")
	}
	return all
}

// queues: without queue: max a run that waits is dropped when another one comes.
// https://docs.github.com/en/actions/how-tos/write-workflows/choose-when-workflows-run/control-workflow-concurrency
func queues(w *workflow) []string {
	want := map[string]concurrency{
		"release.yml":  {"channel-${{ needs.plan.outputs.channel }}", false, "max"},
		"rollback.yml": {"rollback-${{ inputs.channel }}", false, "max"},
		"care.yml":     {"care", false, "max"},
	}
	got := w.Concurrency
	if w.file == "release.yml" {
		got = w.Jobs["promote"].Concurrency
	}
	if expected, moves := want[w.file]; moves && got != expected {
		return []string{fmt.Sprintf("has %+v, want %+v", got, expected)}
	}
	return nil
}

func machines(w *workflow) []string {
	var all []string
	for name, j := range w.Jobs {
		switch {
		case j.Uses != "":
		case j.Timeout < 1 || j.Timeout > 120:
			all = append(all, fmt.Sprintf("%s may take %d minutes", name, j.Timeout))
		case j.RunsOn != "ubuntu-24.04" && j.RunsOn != "ubuntu-24.04-arm":
			all = append(all, name+" runs on "+j.RunsOn)
		case j.Continue != nil || j.Container != nil || j.Services != nil:
			all = append(all, name+" goes on after a failure, or in a container")
		}
	}
	for _, s := range w.steps() {
		if s.Continue != nil {
			all = append(all, fmt.Sprintf("goes on after %q failed", s.Run))
		}
	}
	return all
}

// approvals: the job that moves a channel at somebody's word is in an environment, and plans in it.
func approvals(w *workflow) []string {
	want := map[string][2]string{
		"release.yml": {"promote", "${{ needs.plan.outputs.channel }}"}, "rollback.yml": {"rollback", "rollback"}, "care.yml": {"reissue", "rollback"},
	}
	var all []string
	if at, moves := want[w.file]; moves && w.Jobs[at[0]].Environment != at[1] {
		all = append(all, fmt.Sprintf("%s is in the environment %q", at[0], w.Jobs[at[0]].Environment))
	}
	for name, j := range w.Jobs {
		if j.Environment == "" && slices.ContainsFunc(j.Steps, func(s *ciStep) bool { return strings.Contains(s.Run, "-early") }) {
			all = append(all, name+" vouches for what nobody signed")
		}
	}
	return all
}

func builders(w *workflow) []string {
	if w.file != "build.yml" {
		if strings.Contains(w.text, "-until=") {
			return []string{"builds or signs"}
		}
		return nil
	}
	var all []string
	publish := w.Jobs["publish"]
	if publish.Needs != "inspect" {
		all = append(all, "publishes what was not inspected")
	}
	last := publish.Steps[len(publish.Steps)-1]
	if !strings.HasSuffix(strings.TrimSpace(last.Run), "-until=attest") || last.Env["CONTAINAI_HANDOVER"] != "${{ needs.inspect.outputs.handover }}" {
		all = append(all, "signs other than what was inspected")
	}
	if slices.Sorted(maps.Keys(w.On))[0] != "workflow_call" || len(w.On) != 1 {
		all = append(all, "is started by somebody else than release.yml")
	}
	return all
}

func TestWorkflowsPassActionlint(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("shellcheck is not installed: mage test installs it where it may")
		}
		t.Skip("shellcheck is not installed")
	}
	linter, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{
		Shellcheck: shellcheck,
		// Newer than actionlint 1.7.12; TestWorkflowsFollowTheRules looks at it. Delete with the next version.
		IgnorePatterns: []string{`unexpected key "queue" for "concurrency" section`},
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	project, err := actionlint.NewProject(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range readWorkflows(t) {
		errs, err := linter.Lint(filepath.Join(root, ".github", "workflows", w.file), []byte(w.text), project)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range errs {
			t.Errorf("%s:%d:%d: %s", w.file, e.Line, e.Column, e.Message)
		}
	}
	broken := "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - run: echo $UNQUOTED\n"
	if errs, err := linter.Lint("broken.yml", []byte(broken), nil); err != nil || len(errs) == 0 {
		t.Errorf("shellcheck finds nothing in %q: %v", broken, err)
	}
}

// Every command of a workflow is a target that is there, with flags that it has.
func TestWorkflowsNameTargetsThatExist(t *testing.T) {
	list, err := os.ReadFile("../testdata/golden/mage-list.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, w := range readWorkflows(t) {
		for _, s := range w.steps() {
			words := strings.Fields(s.Run)
			if len(words) < 3 || words[1] != `"$RUNNER_TEMP/mage"` {
				continue
			}
			seen++
			if !regexp.MustCompile(`(?m)^  ` + words[2] + `\*? `).Match(list) {
				t.Errorf("%s runs %s, which is no target", w.file, words[2])
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d commands were looked at", seen)
	}
}

// What ops:rollback prints for who may not sign is what the workflow takes.
func TestTheRollbackWorkflowTakesWhatTheHintNames(t *testing.T) {
	for _, w := range readWorkflows(t) {
		if w.file != "rollback.yml" {
			continue
		}
		var form struct{ Inputs map[string]yaml.Node }
		node := w.On["workflow_dispatch"]
		if err := node.Decode(&form); err != nil {
			t.Fatal(err)
		}
		named := map[string]bool{}
		for _, m := range regexp.MustCompile(` -f ([a-z]+)=`).FindAllStringSubmatch(dispatch(intent{channel: "prod", to: "v1.0.0", reason: "r", bad: true}), -1) {
			named[m[1]] = true
		}
		if got, want := slices.Sorted(maps.Keys(form.Inputs)), slices.Sorted(maps.Keys(named)); !slices.Equal(got, want) {
			t.Errorf("the workflow takes %q, the hint names %q", got, want)
		}
		return
	}
	t.Error("there is no rollback.yml")
}
