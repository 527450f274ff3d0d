package pipeline_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containai/containai/mage/evidence"
	"github.com/containai/containai/mage/pipeline"
)

// roundTrip is what a request to a registry or a git host far away costs at least.
const roundTrip = 50 * time.Millisecond

// What moving a channel may wait for the wire, one after the other. A rollback reads and compares the
// evidence of two releases, for whoever decides.
const (
	mostRoundTrips = 25
	mostGoingBack  = 30
)

// BenchmarkMoveChannel moves a channel of nine repositories, 50 ms away from the registry and from the
// git host: from reading the ledger over every precondition to the last tag read back. The evidence
// was verified on this machine before, so its content is in the cache. The round trips are the least of
// all runs: where a busy machine spreads requests that are sent at once, they look like a row.
func BenchmarkMoveChannel(b *testing.B) {
	for _, test := range []struct {
		name, operation string
		most            int
	}{{"promote", "promote", mostRoundTrips}, {"tail of a release", "tail", mostRoundTrips}, {"rollback", "rollback", mostGoingBack}} {
		b.Run(test.name, func(b *testing.B) {
			o := newOriginal(b, soils()["the rehearsal of GHCR"])
			var requests int
			var signing time.Duration
			var least []string
			for b.Loop() {
				b.StopTimer()
				s, far := o.far(b)
				s.signing = &signing
				b.StartTimer()
				if err := s.perform(b, test.operation); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if chain := far.chain(); least == nil || len(chain) < len(least) {
					least = chain
				}
				requests += len(far.requests)
				b.StartTimer()
			}
			if len(least) > test.most {
				b.Errorf("it waited for %d round trips, want %d at most:\n%s", len(least), test.most, strings.Join(least, "\n"))
			}
			b.ReportMetric(float64(len(least)), "round-trips")
			b.ReportMetric(float64(requests)/float64(b.N), "requests")
			b.ReportMetric(float64(signing.Microseconds())/1000/float64(b.N), "ms-signing")
		})
	}
}

// far is a copy of the original behind a slow wire.
func (o original) far(b *testing.B) (*scene, *slow) {
	b.Helper()
	s := o.copy(b)
	far := &slow{next: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/v2/") {
			s.registry.ServeHTTP(w, req)
			return
		}
		s.front.git.ServeHTTP(w, req)
	})}
	server := httptest.NewServer(far)
	b.Cleanup(server.Close)
	s.url = server.URL
	git(b, s.clone, "remote", "set-url", "origin", s.url+"/remote.git")
	git(b, s.clone, "fetch", "-q", s.remote(), "refs/heads/"+s.fam.Ledger.Branch+":refs/containai/remote/"+s.fam.Ledger.Branch) // a clone that has read the ledger before
	return s, far
}

// slow answers every request a round trip later, and notes when each came and went.
type slow struct {
	next     http.Handler
	mu       sync.Mutex
	requests []span
}

type span struct {
	what       string
	came, went time.Time
}

func (f *slow) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	s := span{what: req.Method + " " + req.URL.Path, came: time.Now()}
	select {
	case <-time.After(roundTrip):
	case <-req.Context().Done():
		return
	}
	f.next.ServeHTTP(w, req)
	s.went = time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, s)
}

// chain is the longest row of requests of which each came when the one before had gone: as many round
// trips were waited for.
func (f *slow) chain() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(f.requests, func(a, b span) int { return a.went.Compare(b.went) })
	var chain []string
	free := time.Time{}
	for _, s := range f.requests {
		if !s.came.Before(free) {
			chain = append(chain, s.came.Sub(f.requests[0].came).Round(time.Millisecond).String()+" "+s.what)
			free = s.went
		}
	}
	return chain
}

// timedSigner adds up how long signing took.
type timedSigner struct {
	pipeline.Signer
	sum *time.Duration
}

func (s timedSigner) Sign(ctx context.Context, st evidence.Statement) (evidence.Bundle, error) {
	began := time.Now()
	defer func() { *s.sum += time.Since(began) }()
	return s.Signer.Sign(ctx, st)
}
