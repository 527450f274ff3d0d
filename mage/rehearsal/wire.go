package rehearsal

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
)

// answer is a response that was caught on its way out.
type answer struct {
	status int
	header http.Header
	body   bytes.Buffer
}

// catch runs a handler and keeps what it answers.
func catch(h http.Handler, r *http.Request) *answer {
	a := &answer{header: http.Header{}}
	h.ServeHTTP(a, r)
	a.WriteHeader(http.StatusOK)
	return a
}

// Header is part of http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader is part of http.ResponseWriter; the first final status stays.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
}

// Write is part of http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// send sends the answer on; the connection's write errors are the client's business.
func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}

// sendCut promises the whole body, sends n bytes of it and ends the connection. A body that is not
// longer is lost with its header, so that the client is disturbed in any case.
func (a *answer) sendCut(w http.ResponseWriter, n int64) {
	if int64(a.body.Len()) <= n {
		hangUp(w)
		return
	}
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Content-Length", strconv.Itoa(a.body.Len()))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()[:n])
	if err := http.NewResponseController(w).Flush(); err != nil {
		hangUp(w)
	}
	panic(http.ErrAbortHandler) // the server's documented way to end a connection in mid-answer
}

// hangUp resets the connection: a TCP RST where there is TCP, an aborted answer elsewhere.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // a TLS connection
		raw = wrapped.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // unsent data is dropped and the peer gets a RST
	}
	conn.Close()
}

// drain reads a request's body to its end, so that its sender gets to read the answer.
func drain(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// ociErrors is the error body of the distribution specification v1.1, "Error Codes".
func ociErrors(code, message string) string {
	type oci struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	return encode(map[string][]oci{"errors": {{code, message}}})
}

// refuse answers with an OCI error.
func refuse(w http.ResponseWriter, status int, code, message string) {
	maps.Copy(w.Header(), jsonHeader())
	w.WriteHeader(status)
	_, _ = io.WriteString(w, ociErrors(code, message))
}

// reply answers with a JSON value.
func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, encode(value))
}

// encode encodes values of this package, which all have a JSON form, without HTML escapes.
func encode(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(err) // a value of ours without a JSON form is a bug of ours
	}
	return b.String()
}

// codeOf is the error code that the distribution specification v1.1 has for a status.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusNotFound:
		return "NAME_UNKNOWN"
	case http.StatusMethodNotAllowed:
		return "UNSUPPORTED"
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	}
	return "UNKNOWN"
}
