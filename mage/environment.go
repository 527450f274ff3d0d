package mage

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/actions"
	"github.com/containai/containai/mage/internal/term"
)

// environment is everything a command takes from outside: this file alone asks the process for
// variables, the clock, the working directory and the standard streams.
type environment struct {
	family    string   // absolute path of the family file
	registry  string   // host[:port]/owner; empty is the embedded registry
	github    string   // base URL of GitHub's REST API
	state     string   // absolute path of the state directory
	cache     string   // the user's cache directory for tools and base systems
	shared    string   // a build cache beside the builder's own; empty is none
	jobCache  []string // what GitHub gives a job to reach its cache; one Buildx process gets it
	builder   string   // name of an explicit Buildx builder
	buildkit  string   // $BUILDKIT_HOST
	platforms []string // empty: the host's platform
	anew      bool     // build what did not change, too
	caBundle  string   // path of the CA certificates for builds
	database  string   // directory of a Trivy vulnerability database
	token     string   // $GITHUB_TOKEN: for the ledger's remote, by one git process, and as login at GitHub's registry
	sshAgent  string   // socket of the agent that opens an SSH remote
	actor     string   // who moves a channel
	run       string   // which run moves it
	all       []string // every variable: no build argument may hold a secret of it
	secrets   *term.Secrets
	library   string // directory of this library's source
	version   string // of this library, where another module imports it; otherwise empty
	job       actions.Variables
	handover  string // digest of what an earlier job left in dist/; empty: none did
	terminal  term.Options
	stdout    io.Writer
	stderr    io.Writer
	now       func() time.Time
}

// readEnvironment reads the documented variables; docs/architecture.md lists them.
func readEnvironment() (environment, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return environment{}, fault.Wrap(err, fault.Environment, "reading", "working directory")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return environment{}, fault.New(fault.Environment, "looking for", "cache directory", "%v", err).WithHint("set HOME or XDG_CACHE_HOME")
	}
	handover, err := namedHandover()
	if err != nil {
		return environment{}, err
	}
	absolute := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(cwd, path)
	}
	familyFile := absolute(variable("CONTAINAI_FAMILY", "containai.yaml"))
	e := environment{
		family:   familyFile,
		registry: variable("CONTAINAI_REGISTRY", ""),
		github:   gitHubAPI(),
		state:    filepath.Join(filepath.Dir(familyFile), ".containai"),
		cache:    filepath.Join(cache, "containai"),
		shared:   variable("CONTAINAI_CACHE", ""),
		jobCache: named("ACTIONS_RUNTIME_TOKEN", "ACTIONS_RESULTS_URL", "ACTIONS_CACHE_URL", "ACTIONS_CACHE_SERVICE_V2"),
		builder:  variable("CONTAINAI_BUILDER", ""),
		buildkit: variable("BUILDKIT_HOST", ""),
		caBundle: firstFile(variable("CONTAINAI_CA_BUNDLE", ""), variable("SSL_CERT_FILE", ""), "/etc/ssl/certs/ca-certificates.crt"),
		database: variable("CONTAINAI_VULNERABILITY_DB", ""),
		token:    variable("GITHUB_TOKEN", ""),
		sshAgent: variable("SSH_AUTH_SOCK", ""),
		actor:    variable("GITHUB_ACTOR", variable("USER", "local user")),
		run:      thisRun(),
		all:      os.Environ(),
		secrets:  &term.Secrets{},
		job:      actions.Read(func(name string) string { return variable(name, "") }),
		handover: handover,
		library:  libraryDirectory(),
		version:  libraryVersion(),
		anew:     variable("CONTAINAI_REBUILD", "") != "",
		terminal: term.For(os.Stderr, os.Getenv, time.Now),
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		now:      time.Now,
	}
	for _, value := range evidence.SecretsOf(e.all) {
		e.secrets.Learn(value)
	}
	if state := variable("CONTAINAI_STATE", ""); state != "" {
		e.state = absolute(state)
	}
	if platforms := variable("CONTAINAI_PLATFORMS", ""); platforms != "" {
		e.platforms = strings.Split(platforms, ",")
	}
	return e, nil
}

// namedHandover is the digest that an earlier job told. A workflow sets the variable also where that job told
// nothing: such a release would build and scan beside the rights of the job that signs.
func namedHandover() (string, error) {
	said, ok := os.LookupEnv("CONTAINAI_HANDOVER")
	if ok && said == "" {
		return "", fault.New(fault.Invalid, "reading", "$CONTAINAI_HANDOVER", "it is empty: no earlier job said what it left").
			WithHint("run all jobs of the workflow again; where no earlier job leaves anything, unset it")
	}
	return said, nil
}

// thisRun names the run as the history shows it: the page of a GitHub Actions run, or "local". Nobody
// believes it; who moved a channel is proved by the signature.
func thisRun() string {
	id := variable("GITHUB_RUN_ID", "")
	if id == "" {
		return "local"
	}
	return variable("GITHUB_SERVER_URL", "https://github.com") + "/" + variable("GITHUB_REPOSITORY", "") +
		"/actions/runs/" + id + "/attempts/" + variable("GITHUB_RUN_ATTEMPT", "1")
}

// gitHubAPI is the base URL of GitHub's REST API.
func gitHubAPI() string { return variable("GITHUB_API_URL", "https://api.github.com") }

// hostPlatform is what is built locally unless CONTAINAI_PLATFORMS asks for more.
func hostPlatform() string { return "linux/" + runtime.GOARCH }

func variable(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok && value != "" {
		return value
	}
	return otherwise
}

// named returns those variables that are set, as NAME=value.
func named(names ...string) []string {
	var set []string
	for _, name := range names {
		if value := variable(name, ""); value != "" {
			set = append(set, name+"="+value)
		}
	}
	return set
}

func firstFile(candidates ...string) string {
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// libraryDirectory is where this library's source lies: in a checkout or in the module cache.
// The scanner worker and the local Sigstore are built from there.
func libraryDirectory() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return ""
	}
	return filepath.Dir(filepath.Dir(file))
}

// libraryPath is the module that this library is.
const libraryPath = "github.com/containai/containai"

// libraryVersion is the version at which another module imports this library.
func libraryVersion() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range build.Deps {
		if m.Path == libraryPath && m.Replace == nil {
			return m.Version
		}
	}
	return ""
}
