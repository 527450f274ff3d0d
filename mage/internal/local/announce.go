package local

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"strings"
	"time"
)

// A process that finds an announced registry asks it to prove that it is of the same state: it sends
// a random challenge and expects its HMAC-SHA256 under the state's secret. A stale address file, or
// whatever listens on that port by now, does not pass.
const (
	challengeHeader = "Containai-Challenge"
	proofHeader     = "Containai-Proof"
	proofTimeout    = 2 * time.Second
	maxAddr         = 64 // bytes of the address file
)

// prove answers challenges.
func prove(secret string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if challenge := req.Header.Get(challengeHeader); secretGrammar.MatchString(challenge) {
			w.Header().Set(proofHeader, proof(secret, challenge))
		}
		next.ServeHTTP(w, req)
	})
}

func proof(secret, challenge string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("containai registry " + challenge))
	return hex.EncodeToString(mac.Sum(nil))
}

// announced returns the address of the registry that serves this state, if there is one.
func announced(ctx context.Context, s *State) (host string, ok bool) {
	content, err := os.ReadFile(s.path(serverAddr))
	if err != nil {
		return "", false
	}
	host, err = parseAddr(content)
	if err != nil {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/v2/", nil)
	if err != nil {
		return "", false
	}
	challenge := newSecret()
	req.Header.Set(challengeHeader, challenge)
	direct := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // no proxy stands between us and this machine
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := direct.Do(req)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	want := proof(s.secret, challenge)
	return host, resp.StatusCode == http.StatusOK && hmac.Equal([]byte(resp.Header.Get(proofHeader)), []byte(want))
}

// parseAddr reads an address file.
func parseAddr(content []byte) (string, error) {
	if len(content) > maxAddr {
		return "", errors.New("it is too long for an address")
	}
	addr := strings.TrimSpace(string(content))
	return addr, checkLoopback(addr)
}

// writeAddr writes the address file by rename.
func writeAddr(s *State, host string) error {
	beside := s.path(serverAddr + ".new")
	if err := os.WriteFile(beside, []byte(host+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(beside, s.path(serverAddr))
}
