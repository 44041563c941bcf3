package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

// TestSuite runs the contract of client.API, as every implementation must
// keep it, between two clients of one cluster.
func TestSuite(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	a, b := w.Client(), w.Client()
	for i, c := range fstest.Contracts {
		if c.Says == "rename of directories" {
			continue // between parents the coordinator answers CrossDir: see TestRenameDirectories
		}
		t.Run(c.Says, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			defer cancel()
			d, err := a.Mkdir(ctx, eggs.Root, fmt.Sprint("suite-", i), client.CreateOptions{Mode: 0o755})
			if err != nil {
				t.Fatal(err)
			}
			c.Test(t, &fstest.Room{API: a, Other: b, Dir: d.ID, Ctx: ctx})
		})
	}
}
