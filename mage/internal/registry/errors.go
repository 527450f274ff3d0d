package registry

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/internal/term"
)

// classify gives an error of the wire or the disk its kind and the next step. What it does not
// know gets the kind the caller expects least to be wrong about.
func classify(err error, unknown fault.Kind, op, subject string) error {
	if _, ok := err.(*fault.Error); ok || err == nil {
		return err
	}
	if _, ok := fault.KindOf(err); ok {
		return fault.Wrap(withoutURL(err), unknown, op, subject)
	}
	kind, hint := diagnose(err)
	if kind == 0 {
		kind = unknown
	}
	return &fault.Error{Op: op, Subject: subject, Kind: kind, Hint: hint, Err: printable(err)}
}

func diagnose(err error) (fault.Kind, string) {
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		return diagnoseStatus(answer)
	}
	if kind, hint := diagnoseDisk(err); kind != 0 {
		return kind, hint
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		network   net.Error
	)
	switch {
	case errors.Is(err, errdef.ErrNotFound):
		return fault.Conflict, "it was deleted, or never published: run the release again"
	case errors.Is(err, content.ErrMismatchedDigest), errors.Is(err, content.ErrTrailingData), errors.Is(err, content.ErrInvalidDescriptorSize):
		return fault.Forged, ""
	case errors.Is(err, errPlain):
		return fault.Environment, "use https, or an address of this machine"
	case errors.As(err, &authority), errors.As(err, &name):
		return fault.Environment, "the network may inspect TLS: add its certificate to the system's, or set SSL_CERT_FILE"
	case errors.As(err, &network), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPIPE):
		return fault.Unavailable, "check the host name and the network; running the same command again is safe"
	}
	return 0, ""
}

// diagnoseDisk knows the failures of a disk.
func diagnoseDisk(err error) (fault.Kind, string) {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Environment, "the disk is full: free some space and run the same command again"
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fault.Environment, "the directory cannot be written: check its owner and mount"
	}
	return 0, ""
}

// diagnoseStatus reads an HTTP status; the codes are those of the distribution specification
// v1.1.1, section "Error Codes".
func diagnoseStatus(answer *errcode.ErrorResponse) (fault.Kind, string) {
	host := ""
	if answer.URL != nil {
		host = answer.URL.Host
	}
	switch code := answer.StatusCode; {
	case code == http.StatusUnauthorized:
		return fault.Environment, "log in with docker login " + host + "; publishing needs a token with write:packages"
	case code == http.StatusForbidden:
		return fault.Environment, "this login may not: publishing needs a token with the scope write:packages (in a workflow: permissions, packages: write) and the role Write on the package; log in with docker login " + host
	case code == http.StatusInsufficientStorage:
		return fault.Environment, "the registry's disk is full: free some space and run the same command again"
	case code == http.StatusNotFound:
		return fault.Environment, "the repository does not exist or this login cannot see it"
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= http.StatusInternalServerError:
		return fault.Unavailable, "the registry is busy or ill; running the same command again is safe"
	case code >= http.StatusBadRequest:
		return fault.Refused, ""
	}
	return 0, ""
}

// withoutURL takes away what http.Client says around an error of ours: the URL of the last hop.
func withoutURL(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// printable takes from an error what must not be shown: the query of a URL, and what a registry would
// have us print.
func printable(err error) error {
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) {
		return onOneLine(answer)
	}
	var at *url.Error
	if errors.As(err, &at) {
		u, parseErr := url.Parse(at.URL)
		if parseErr != nil {
			return at.Err
		}
		return &url.Error{Op: at.Op, URL: withoutQuery(u).String(), Err: at.Err}
	}
	return err
}

// onOneLine keeps what a registry says within its line: an answer with lines of its own could tell
// of success, or begin with a workflow command.
func onOneLine(answer *errcode.ErrorResponse) error {
	plain := *answer
	if answer.URL != nil {
		plain.URL = withoutQuery(answer.URL)
	}
	plain.Errors = nil
	for _, e := range answer.Errors {
		said := errcode.Error{Code: term.Escape(e.Code), Message: term.Escape(e.Message)}
		if e.Detail != nil {
			said.Detail = term.Escape(fmt.Sprint(e.Detail))
		}
		plain.Errors = append(plain.Errors, said)
	}
	return &plain
}

// withoutQuery is a URL without its query: signed storage links carry a secret there, upload
// sessions a page of state.
func withoutQuery(u *url.URL) *url.URL {
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
}
