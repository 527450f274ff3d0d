package evidence

import (
	"strings"
	"unicode"

	"github.com/containai/containai/mage/internal/lazyregexp"
)

// LooksSecret reports whether a named value is a secret as far as one can see from outside: by its
// name, or by the form that its issuer gives it. What is published is asked about it: build
// arguments, and all that a provenance says.
func LooksSecret(name, value string) bool {
	return secretName.MatchString(name) && value != "" || secretValue.MatchString(value)
}

// minSecret is the shortest value of the environment that counts as a secret, in bytes: shorter ones
// stand in innocent values by chance.
const minSecret = 8

// SecretsOf returns the variables of an environment that look like secrets, with their values.
func SecretsOf(environ []string) map[string]string {
	secrets := map[string]string{}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		if len(value) >= minSecret && LooksSecret(name, value) {
			secrets[name] = value
		}
	}
	return secrets
}

// HideSecrets replaces what looks like a secret, up to the next blank. What a build does is shown and
// recorded while it runs, long before anything looks into what it made.
func HideSecrets(text string) string {
	var shown strings.Builder
	for {
		at := secretValue.FindStringIndex(text)
		if at == nil {
			return shown.String() + text
		}
		shown.WriteString(text[:at[0]] + "(not shown)")
		text = strings.TrimLeftFunc(text[at[1]:], func(r rune) bool { return !unicode.IsSpace(r) })
	}
}

var (
	secretName  = lazyregexp.New(`(?i)(^|[_-])(token|secret|passwords?|passwd|api_?key|private_?key|credentials?)($|[_-])`)
	secretValue = lazyregexp.New(`gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}` + // GitHub
		`|glpat-[A-Za-z0-9_-]{20}` + // GitLab
		`|npm_[A-Za-z0-9]{36}` + // npm
		`|\b(AKIA|ASIA)[A-Z0-9]{16}\b` + // AWS
		`|xox[abprs]-[A-Za-z0-9-]{10}` + // Slack
		`|\bsk-[A-Za-z0-9_-]{20}` + // OpenAI, Anthropic
		`|\beyJ[A-Za-z0-9_-]{8,}\.eyJ` + // a JSON web token
		`|-----BEGIN [A-Z ]*PRIVATE KEY` + // PEM
		`|://[^/\s:@]+:[^/\s@]+@`) // a URL with a password
)
