package jepsen

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// operator is a client of the cluster under test.
func operator(t *testing.T, c *Cluster) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, err := client.Open(ctx, client.Config{Addrs: strings.Split(c.Addrs(), ","), KeyFile: c.Key()})
	must(t, err)
	t.Cleanup(func() { o.Close() })
	return o
}

// aDisk is a disk of a node: its id and its folder.
func aDisk(t *testing.T, o *client.Client, n *Node, folder string) (eggs.DiskID, string) {
	t.Helper()
	st, err := o.ClusterStatus(context.Background())
	must(t, err)
	for _, s := range st.Nodes {
		for _, d := range s.Disks {
			if d.Path == filepath.Join(n.Data, "blocks", folder) {
				return eggs.DiskID(d.Id), d.Path
			}
		}
	}
	t.Fatalf("node %d has no disk %s", n.Index+1, folder)
	return 0, ""
}

func fact(t *testing.T, o *client.Client, r *wire.CdcRequest) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := o.CDC(ctx, r)
	must(t, err)
}

// blocksIn counts the blocks in a disk's folder.
func blocksIn(t *testing.T, folder string) (n int, one string) {
	t.Helper()
	must(t, filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && isBlock(path) {
			n++
			one = path
		}
		return nil
	}))
	return n, one
}

// fullAgain waits until every file has its full redundancy, as explain says, and
// returns how long that took.
func fullAgain(t *testing.T, c *Cluster, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		out, err := c.Eggs(ctx, "-o", "json", "explain", "-r", "/")
		cancel()
		var all []struct {
			Path string `json:"path"`
			Full bool   `json:"full_redundancy"`
		}
		bad := "explain: " + fmt.Sprint(err)
		if err == nil {
			must(t, json.Unmarshal([]byte(out), &all))
			bad = ""
			for _, x := range all {
				if !x.Full {
					bad = x.Path
				}
			}
		}
		if bad == "" && len(all) > 0 {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %s: %s has not its full redundancy (of %d files)", limit, bad, len(all))
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// TestRepair: a disk that is drained ends with nothing on it; rot that nobody has read is
// found by the scrub and mended; a disk whose folder was emptied is retired after the
// set time and what was on it rebuilt, unattended, though a node that repairs is killed in the middle; explain
// says of every file that it is whole; and at the end nothing is leaked.
func TestRepair(t *testing.T) {
	c := start(t, 3, "--gc-interval", "2s", "--repair-rate", "20MiB")
	o := operator(t, c)
	mnt := mount(t, c)
	src := t.TempDir()
	sh(t, `for i in $(seq 40); do head -c $((i * 60000)) /dev/urandom >%[1]s/f$i; done
		head -c 30000000 /dev/urandom >%[1]s/big; cp -a %[1]s/. %[2]s/`, src, mnt)
	fullAgain(t, c, time.Minute)

	drained, folder := aDisk(t, o, c.Node(0), "03")
	n, _ := blocksIn(t, folder)
	if n == 0 {
		t.Fatal("nothing is on the disk that is to be drained")
	}
	began := time.Now()
	fact(t, o, &wire.CdcRequest{Op: &wire.CdcRequest_PutDisk{PutDisk: &wire.PutDisk{
		Disk: &wire.DiskFact{Id: uint64(drained), Draining: true}, Mask: 2,
	}}})
	for left := n; left > 0; left, _ = blocksIn(t, folder) {
		if time.Since(began) > time.Minute {
			t.Fatalf("of %d blocks on the drained disk, %d are left", n, left)
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("%d blocks drained in %s", n, time.Since(began).Round(time.Millisecond))
	run(t, c, "migrate")

	rotten, folder := aDisk(t, o, c.Node(1), "05")
	_, one := blocksIn(t, folder)
	f, err := os.OpenFile(one, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("rot"), 5000)
	must(t, err)
	must(t, f.Close())
	if out := run(t, c, "-o", "json", "scrub"); !strings.Contains(out, `"bad": 1,`) ||
		!strings.Contains(out, `"mended": 1,`) {
		t.Errorf("one block on disk %s was made rotten; scrub says %s", rotten, out)
	}
	sh(t, "diff -r %s %s", src, mnt)

	fact(t, o, &wire.CdcRequest{Op: &wire.CdcRequest_PutCluster{PutCluster: &wire.PutCluster{
		RetireAfterNs: int64(5 * time.Second),
	}}})
	_, folder = aDisk(t, o, c.Node(2), "07")
	n, _ = blocksIn(t, folder)
	began = time.Now()
	sh(t, "find %s -mindepth 1 -delete", folder)
	for !strings.Contains(run(t, c, "events"), "is retired for ever") {
		if time.Since(began) > time.Minute {
			t.Fatalf("the emptied disk was not retired:\n%s", run(t, c, "events"))
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Logf("the disk was retired %s after it was emptied", time.Since(began).Round(time.Millisecond))
	c.Node(1).Kill()
	must(t, c.Node(1).Start())
	must(t, c.Node(1).WaitReady())
	fullAgain(t, c, time.Minute)
	t.Logf("full redundancy of %d lost blocks %s after the disk was emptied", n, time.Since(began).Round(time.Millisecond))
	sh(t, "diff -r %s %s", src, mnt)
	run(t, c, "check")
	nothingIsLeft(t, c, mnt)
}

// TestSpreadAgain: files written while a node is down crowd the two others; when it is back, explain
// says that they have less than full redundancy until their blocks are spread over all
// three, and then another node may be lost.
func TestSpreadAgain(t *testing.T) {
	c := start(t, 3, "--gc-interval", "2s")
	mnt := mount(t, c)
	src := t.TempDir()
	c.Node(2).Kill()
	sh(t, `for i in $(seq 8); do head -c $((i * 500000)) /dev/urandom >%[1]s/f$i; done
		head -c 20000 /dev/urandom >%[1]s/small; cp -a %[1]s/. %[2]s/`, src, mnt)
	must(t, c.Node(2).Start())
	must(t, c.Node(2).WaitReady())
	took := fullAgain(t, c, 30*time.Second)
	t.Logf("full redundancy %s after the node was back", took.Round(time.Millisecond))
	for end := time.Now().Add(15 * time.Second); !strings.Contains(run(t, c, "events"), "spans again over the"); {
		if time.Now().After(end) {
			t.Fatalf("no event says that spans were spread:\n%s", run(t, c, "events"))
		}
		time.Sleep(200 * time.Millisecond)
	}
	run(t, c, "check")
	c.Node(1).Kill()
	sh(t, "diff -r %s %s", src, mount(t, c)) // another mount: the first one has the files in memory
}
