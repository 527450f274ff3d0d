package main

import (
	"crypto"
	"crypto/rand"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"time"

	"github.com/digitorus/timestamp"
)

// maxQuery bounds a timestamp query, in bytes; a real one has about 60.
const maxQuery = 4 << 10

// timestampAuthority answers RFC 3161 queries over HTTP (section 3.4) with the library that Sigstore's
// own authority is built on; that server itself would link four clouds' key services.
func timestampAuthority(a authority) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxQuery))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		request, err := timestamp.ParseRequest(query)
		if err != nil || request.HashAlgorithm == crypto.SHA1 {
			http.Error(w, "not a timestamp query over SHA-2", http.StatusBadRequest)
			return
		}
		reply, err := stamp(a, request, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		_, _ = w.Write(reply)
	})
}

func stamp(a authority, request *timestamp.Request, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	token := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Nonce: request.Nonce,
		Time: now, Accuracy: time.Second, SerialNumber: serial, AddTSACertificate: request.Certificates,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, // Sigstore's timestamp policy
	}
	return token.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
}
