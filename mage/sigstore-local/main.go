// Command sigstore-local runs a complete Sigstore on the loopback interface: an OpenID issuer,
// Fulcio with a certificate log, a Rekor v2 transparency log and a timestamp authority, each the
// real implementation.
//
//	sigstore-local --dir DIR [--claims FILE]
//
// The first line of standard input says what is being built, as JSON ([source]); the first and only
// line of standard output says where the services are ([ready]). The program lives until standard
// input ends or SIGTERM arrives, so it cannot outlive its parent; everything runs in this one
// process. DIR keeps the keys, the transparency log and the trusted root; one instance owns it at a
// time. Identities are honest: tokens name the local issuer and the local builder. Only --claims, for
// rehearsals, replaces them.
//
// Invariant: whoever holds DIR/trusted_root.json can verify what any run with DIR has signed, and
// nobody but the parent, who alone knows the run's bearer token, can have anything signed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	fulciolog "github.com/sigstore/fulcio/pkg/log"
)

// Exit codes, in the numbering of the library's exit table.
const (
	exitInvalid  = 10 // wrong arguments or claims
	exitConflict = 40 // another instance owns the directory
)

// ready is the line that the parent waits for. The bearer token is new in every run.
type ready struct {
	TrustedRoot   string `json:"trustedRoot"`   // path of trusted_root.json
	SigningConfig string `json:"signingConfig"` // path of signing_config.json
	Fulcio        string `json:"fulcio"`        // base URL
	Rekor         string `json:"rekor"`         // base URL
	Timestamp     string `json:"timestamp"`     // RFC 3161 endpoint
	TokenURL      string `json:"tokenURL"`      // as $ACTIONS_ID_TOKEN_REQUEST_URL
	Token         string `json:"token"`         // as $ACTIONS_ID_TOKEN_REQUEST_TOKEN
}

func main() {
	fulciolog.ConfigureLogger("prod") // the default one writes to standard output
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "sigstore-local:", err)
	var coded exitError
	if errors.As(err, &coded) {
		os.Exit(coded.code)
	}
	os.Exit(1)
}

// exitError is an error that scripts tell apart by the exit code.
type exitError struct {
	code int
	error
}

// maxClaims bounds the claims a parent or a file may give, in bytes.
const maxClaims = 64 << 10

// run serves until stdin ends or a signal arrives.
func run(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("sigstore-local", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the keys, the log and the trusted root (required)")
	file := flags.String("claims", "", "JSON `file` whose claims replace the honest ones; for rehearsals only")
	if err := flags.Parse(args); err != nil || *dir == "" || flags.NArg() > 0 {
		return exitError{exitInvalid, errors.New("usage: sigstore-local --dir DIR [--claims FILE]")}
	}
	input := bufio.NewReaderSize(stdin, maxClaims)
	claims, err := readClaims(*file, input)
	if err != nil {
		return exitError{exitInvalid, err}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	go func() {
		defer end()
		_, _ = io.Copy(io.Discard, input) // ends with the parent
	}()
	return serve(ctx, *dir, claims, stdout)
}

// readClaims takes the claims of this run from a file, or from the parent's line.
func readClaims(file string, input *bufio.Reader) (claims, error) {
	if file == "" {
		line, err := input.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("reading what is being built from the first line of standard input: %w", err)
		}
		return localClaims(line)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(content) > maxClaims {
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxClaims)
	}
	return rehearsedClaims(content)
}

// serve starts every service, prints the ready line and waits for the context to end.
func serve(ctx context.Context, dir string, who claims, stdout io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	lock, err := own(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	keys, err := openKeys(dir)
	if err != nil {
		return err
	}
	// Rekor first: it configures the process-wide loggers before anything else writes to them.
	rekor, err := startRekor(ctx, dir)
	if err != nil {
		return err
	}
	defer rekor.stop()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at := "http://" + listener.Addr().String()
	oidc, err := newIssuer(who)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /token", oidc)
	mux.Handle("POST /api/v1/timestamp", timestampAuthority(keys.tsa))
	fulcio, err := newFulcio(ctx, dir, keys, oidc)
	if err != nil {
		return err
	}
	mux.Handle("/api/v2/", fulcio)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	line := ready{
		TrustedRoot: filepath.Join(dir, "trusted_root.json"), SigningConfig: filepath.Join(dir, "signing_config.json"),
		Fulcio: at, Rekor: rekor.url, Timestamp: at + "/api/v1/timestamp",
		TokenURL: at + "/token?api-version=2.0", Token: oidc.bearer,
	}
	if err := writeTrust(line, keys); err != nil {
		return err
	}
	if err := json.NewEncoder(stdout).Encode(line); err != nil {
		return fmt.Errorf("telling the parent: %w", err)
	}
	<-ctx.Done()
	return nil
}

// own creates the directory for this user alone and locks it until the process ends.
func own(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, exitError{exitConflict, fmt.Errorf("another instance owns %s: %w", dir, err)}
	}
	return lock, nil
}
