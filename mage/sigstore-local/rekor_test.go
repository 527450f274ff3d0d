package main

import (
	"net"
	"runtime"
	"testing"
)

// Two helpers that start at once look for ports before either of their Rekors has bound one.
func TestAPortThatAnotherHelperIsAboutToBindIsNotTaken(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a namespace of sockets without files")
	}
	port, claim, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	if listener, err := net.Listen("tcp", "127.0.0.1:"+port); err != nil {
		t.Errorf("the port %s is not free: %v", port, err)
	} else {
		listener.Close()
	}
	if second, err := claimPort(port); err == nil {
		second.Close()
		t.Errorf("the port %s was claimed twice", port)
	}
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claimPort(port)
	if err != nil {
		t.Fatalf("a port that was given up stays claimed: %v", err)
	}
	again.Close()
}
