// Command inspect is the scanner worker: the only package that links Syft and Trivy.
//
// It reads one inspect.Job as JSON from standard input, writes one inspect.Event per line to
// standard output and nothing else there, logs to standard error, and ends with the exit status
// of a fault.Kind. Every blob is checked against its digest before it is scanned; every layer is
// unpacked and analysed once, alone, however many images share it; every target then gets an SBOM and a
// report, both moved into place whole. Invariant: a target has a report only if all of its
// layers, its configuration and its manifest were scanned.
//
// Trivy needs Go's JSON v2: build it with
//
//	GOEXPERIMENT=jsonv2 go build ./mage/cmd/inspect
package main
