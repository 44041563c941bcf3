package upkeep_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/upkeep"
)

// newCrowdedWorld is nodes of four disks of which only the first two could be written
// when its files were made.
func newCrowdedWorld(t *testing.T, nodes int) (*clienttest.World, *client.Client, []eggs.InodeID, [][]byte) {
	t.Helper()
	w := clienttest.New(t, clienttest.Config{Nodes: nodes, Disks: 4})
	c := w.Client()
	must(t, c.SetPolicy(bg, eggs.Root, policy(0, 0), 0))
	openNodes(w, c, 2)
	var ids []eggs.InodeID
	var want [][]byte
	for i := range 6 {
		id, data := putBytes(t, c, fmt.Sprint("f", i), 9000+60_000*i)
		ids, want = append(ids, id), append(want, data)
	}
	return w, c, ids, want
}

// openNodes has the first n nodes take blocks, and the others not.
func openNodes(w *clienttest.World, c client.Operator, n int) {
	for i, node := range w.Nodes {
		for _, d := range w.Disks() {
			switch {
			case d.Node != node:
			case i < n:
				w.SetDisk(bg, c, d.ID, "")
			default:
				w.SetDisk(bg, c, d.ID, "draining")
			}
		}
	}
}

// crowded counts the spans that the picture says are crowded.
func crowded(t testing.TB, w *clienttest.World, c client.Operator, ids []eggs.InodeID) (n int) {
	t.Helper()
	g := upkeep.GroundOf(w.Routes())
	for _, id := range ids {
		spans, _, err := c.BlockSpans(bg, id, 0)
		must(t, err)
		for _, s := range spans {
			if g.Crowded(s) {
				n++
			}
		}
	}
	return n
}

// TestSpread: what was written while a node was away has a share of blocks on it after its return,
// with as few moves as that needs; a second look finds nothing to do.
func TestSpread(t *testing.T) {
	w, c, ids, want := newCrowdedWorld(t, 3)
	if n := crowded(t, w, c, ids); n != 0 {
		t.Fatalf("%d spans are crowded though two nodes are all there is", n)
	}
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
	st, err := m.Spread(bg)
	must(t, err)
	if st.Blocks != 0 {
		t.Errorf("%+v: moved though there was nowhere to go", st)
	}
	openNodes(w, c, 3)
	n := crowded(t, w, c, ids)
	if n == 0 {
		t.Fatal("nothing is crowded")
	}
	st, err = m.Spread(bg)
	must(t, err)
	if int(st.Spread) != n || st.Rebuilt != 0 || st.Failed != 0 || st.Blocks > 2*st.Spread {
		t.Errorf("%+v of %d crowded spans", st, n)
	}
	spread(t, w, c, ids)
	again, err := m.Spread(bg)
	must(t, err)
	if again != st {
		t.Errorf("%+v, and once more %+v", st, again)
	}
	collected(t, c)
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
	wipe(t, c, eggs.Root)
	collected(t, c)
	nothingLeft(t, w, c)
}

// TestSpreadNotInAnOutage: blocks of a node that is out of reach are not made anew
// elsewhere because they crowd it: it may come back.
func TestSpreadNotInAnOutage(t *testing.T) {
	w, c, ids, _ := newCrowdedWorld(t, 4)
	openNodes(w, c, 4)
	for _, n := range w.Nodes[:2] {
		n.Declare(false)
	}
	w.Publish()
	if crowded(t, w, c, ids) == 0 {
		t.Fatal("nothing is crowded")
	}
	m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
	st, err := m.Spread(bg)
	must(t, err)
	if st.Blocks != 0 {
		t.Errorf("%+v: blocks of nodes that are away were moved", st)
	}
}

// TestSpreadByTwo: two that spread the same spans at the same time, as when leadership moves,
// end with them spread, not moved to and fro, and nothing leaked.
func TestSpreadByTwo(t *testing.T) {
	w, c, ids, want := newCrowdedWorld(t, 3)
	openNodes(w, c, 3)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: w.Client(), Rate: -1})
			if _, err := m.Spread(bg); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	spread(t, w, c, ids)
	st, err := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1}).Spread(bg)
	must(t, err)
	if st.Blocks != 0 {
		t.Errorf("%+v: there was something left to move", st)
	}
	collected(t, c)
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
	wipe(t, c, eggs.Root)
	collected(t, c)
	nothingLeft(t, w, c)
}

// TestRunSpreads: a repairer that runs notices by itself that a node is back, spreads what is
// crowded in the shards that it leads, and says so.
func TestRunSpreads(t *testing.T) {
	w, c, ids, want := newCrowdedWorld(t, 3)
	var mu sync.Mutex
	var events []string
	m := upkeep.NewMigrator(upkeep.MigratorConfig{
		Client: c, Rate: -1, Interval: 20 * time.Millisecond, SpreadAfter: 100 * time.Millisecond,
		Event: func(_, text string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, text)
		},
	})
	ctx, cancel := context.WithCancel(bg)
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	told := func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(events, "\n")
	}
	openNodes(w, c, 3)
	n := crowded(t, w, c, ids)
	for end := time.Now().Add(20 * time.Second); !strings.Contains(told(), "spread "); {
		if time.Now().After(end) {
			t.Fatalf("of %d crowded spans %d are left; events: %s", n, crowded(t, w, c, ids), told())
		}
		time.Sleep(20 * time.Millisecond)
	}
	spread(t, w, c, ids)
	for i, id := range ids {
		reads(t, c, id, want[i])
	}
}
