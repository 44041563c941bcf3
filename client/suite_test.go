package client_test

import (
	"testing"

	"eggsfs/client/clienttest"
	"eggsfs/internal/fstest"
)

// TestSuite runs the contract of client.API, as every implementation must
// keep it, between two clients of one cluster.
func TestSuite(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	fstest.Suite(t, w.Client(), w.Client())
}
