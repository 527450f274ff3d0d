package actions

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/containai/containai/mage/internal/term"
)

// Console writes workflow commands among the lines of a step. While it is silenced the runner obeys
// no line but the console's own, whatever a program prints.
// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
type Console struct {
	mu     sync.Mutex
	w      io.Writer
	random io.Reader
	token  string // of the silence; empty: there is none
	err    error
}

// NewConsole returns a console on the stream that the step's other lines go to.
func NewConsole(w io.Writer, random io.Reader) *Console { return &Console{w: w, random: random} }

// Silence makes the runner ignore what looks like a command, until Resume.
func (c *Console) Silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == "" {
		c.token = c.secret()
		c.write(stop(c.token))
	}
}

// Resume ends a silence. It is called once at the end, also when everything failed: the next step
// would be silent otherwise.
func (c *Console) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" {
		c.write(resume(c.token))
		c.token = ""
	}
}

// Group begins a part of the log that people can fold; the next one, or EndGroup, ends it.
func (c *Console) Group(title string) { c.command("::group::" + term.EscapeCommand(title) + "\n") }

// EndGroup ends a group.
func (c *Console) EndGroup() { c.command("::endgroup::\n") }

// Mask hides a secret in all logs from here on, in the forms that it takes in headers, files and URLs:
// the runner compares exactly.
func (c *Console) Mask(secret string) {
	var b strings.Builder
	for _, form := range term.Forms(secret) {
		b.WriteString("::add-mask::" + strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(form) + "\n")
	}
	c.command(b.String())
}

// Annotate shows annotations on the run's page.
func (c *Console) Annotate(all []Annotation) {
	var b strings.Builder
	for _, a := range Aggregate(all) {
		b.WriteString(a.command())
	}
	c.command(b.String())
}

// Err returns the first failed write.
func (c *Console) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// command writes commands that the runner obeys: in a silence, between two of them. The second one
// has another token, because the first has been in the log.
func (c *Console) command(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == "" {
		return
	}
	if c.token != "" {
		before := c.token
		c.token = c.secret()
		text = resume(before) + text + stop(c.token)
	}
	c.write(text)
}

func stop(token string) string   { return "::stop-commands::" + token + "\n" }
func resume(token string) string { return "::" + token + "::\n" }

// secret is a token that what is silenced cannot guess.
func (c *Console) secret() string {
	token, err := randomToken(c.random)
	if err != nil && c.err == nil {
		c.err = err
	}
	return token
}

func (c *Console) write(text string) {
	if c.err == nil {
		_, c.err = io.WriteString(c.w, text)
	}
}

// randomToken has 128 bits; a weak one would be no secret.
func randomToken(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("drawing a random token: %w", err)
	}
	return "containai-" + hex.EncodeToString(b[:]), nil
}
