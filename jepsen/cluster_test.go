package jepsen

import (
	"net"
	"strconv"
	"testing"
)

// TestFreeAddr: a node's port must not be one that Linux gives to outgoing connections, or another process
// takes it while the node is down; and two nodes must never be given the same one.
func TestFreeAddr(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		addr, err := freeAddr()
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1024 || n >= 32_768 {
			t.Errorf("%s is where outgoing connections are", addr)
		}
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
	}
}
