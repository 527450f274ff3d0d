package registry

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containai/containai/mage/fault"
	"github.com/containai/containai/mage/graph"
)

// B5: what GHCR would refuse at the end is refused at the beginning.
func TestB5WhatARegistryWouldRefuseIsNotSent(t *testing.T) {
	const gigabyte, megabyte = int64(1e9), 1e6
	for name, test := range map[string]struct {
		host string
		size int64
		rate float64
		want string // what the refusal speaks of; empty is none
	}{
		"a layer at the limit":            {"ghcr.io", 10 * gigabyte, 0, ""},
		"a byte more":                     {"ghcr.io", 10*gigabyte + 1, 0, "10000000000"},
		"however the host is written":     {"GHCR.io", 11 * gigabyte, 0, "10000000000"},
		"another registry has no limit":   {"127.0.0.1:5000", 100 * gigabyte, 1, ""},
		"a large layer on a fast network": {"ghcr.io", 9 * gigabyte, 100 * megabyte, ""},
		"a large layer on a slow one":     {"ghcr.io", 9 * gigabyte, 10 * megabyte, "15m0s"},
		"a small layer on a slow one":     {"ghcr.io", 5 * gigabyte, 10 * megabyte, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := limitsOf(test.host).check(graph.Node{Digest: "sha256:00", Size: test.size}, test.rate)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, fault.Refused) || !strings.Contains(err.Error(), test.want) || fault.HintOf(err) == "" {
				t.Errorf("%v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}

func TestB5TheClientKnowsHowFastItsUploadsWere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, wire := scripted(refusal(201, ""))
		wire.took = 10 * time.Second
		for _, size := range []int64{sample, 2 * sample, 1000} {
			if _, err := r.RoundTrip(upload(t, size)); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := r.count.fastest(), float64(2*sample)/10; got != want {
			t.Errorf("%.0f bytes a second, want %.0f", got, want)
		}
	})
}

// B5: an upload that GHCR cuts off at its limit would be cut off there again.
func TestB5AnUploadThatTookTooLongIsNotBegunAnew(t *testing.T) {
	for name, test := range map[string]struct {
		took time.Duration
		want fault.Kind
	}{
		"at the limit":  {10*time.Minute + time.Second, fault.Refused},
		"long before":   {9 * time.Minute, fault.Unavailable},
		"the first try": {time.Second, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, wire := scripted(refusal(502, ""))
				wire.took = test.took
				if _, err := r.RoundTrip(upload(t, 10)); !errors.Is(err, test.want) {
					t.Errorf("%v, want %v", err, test.want)
				}
			})
		})
	}
}
