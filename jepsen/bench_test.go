package jepsen

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// BenchmarkFailover measures how long it takes until every one of the 256
// shards takes a write again after a node was killed, or stopped.
func BenchmarkFailover(b *testing.B) {
	for _, how := range []string{"SIGKILL", "SIGSTOP"} {
		b.Run(how, func(b *testing.B) { failover(b, how) })
	}
}

func failover(b *testing.B, how string) {
	dir, err := os.MkdirTemp("", "eggs-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := New(Config{Bin: binaries, Dir: dir, Nodes: 3})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	l, err := client.Open(ctx, client.Config{Addrs: []string{c.Node(0).Addr, c.Node(1).Addr}, KeyFile: c.Key()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	dirs := oneDirectoryAShard(b, l)
	var worst, total time.Duration
	for i := range b.N {
		time.Sleep(5 * time.Second) // leaders have moved back
		n := c.Node(i % 3)
		if how == "SIGKILL" {
			n.Kill()
		} else {
			n.Pause()
		}
		took := writeEverywhere(b, l, dirs, i)
		worst, total = max(worst, took), total+took
		if how == "SIGKILL" {
			err = n.Start()
		} else {
			n.Resume()
		}
		if err == nil {
			err = n.WaitReady()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/mean")
	b.ReportMetric(float64(worst.Milliseconds()), "ms/worst")
}

func oneDirectoryAShard(b *testing.B, l *client.Client) map[eggs.ShardID]eggs.InodeID {
	dirs := map[eggs.ShardID]eggs.InodeID{}
	for i := 0; len(dirs) < eggs.Shards; i++ {
		a, err := l.Mkdir(context.Background(), eggs.Root, fmt.Sprintf("d%d", i), client.CreateOptions{Mode: 0o755})
		if err != nil {
			b.Fatal(err)
		}
		dirs[a.ID.Shard()] = a.ID
	}
	return dirs
}

// writeEverywhere makes a file in every shard and says how long the last took.
func writeEverywhere(b *testing.B, l *client.Client, dirs map[eggs.ShardID]eggs.InodeID, round int) time.Duration {
	begin := time.Now()
	var wg sync.WaitGroup
	for _, dir := range dirs {
		wg.Go(func() {
			if err := put(context.Background(), l, dir, fmt.Sprintf("f%d", round)); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}
