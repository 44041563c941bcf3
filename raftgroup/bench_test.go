package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"eggsfs/eggs"
)

// The cost of one committed entry and of one linearizable read: three hosts in
// one process over loopback TCP, real logs with real fsyncs, callers × groups.
// ms-cpu/op is CPU of all three together.
func BenchmarkGroup(b *testing.B) {
	for _, x := range []struct{ callers, groups int }{{1, 1}, {64, 1}, {256, 1}, {256, 256}} {
		b.Run(fmt.Sprintf("propose/%dx%d", x.callers, x.groups), func(b *testing.B) {
			benchGroup(b, x.callers, x.groups, func(g *Group) error {
				_, err := g.Propose(context.Background(), make([]byte, 200))
				return err
			})
		})
		b.Run(fmt.Sprintf("read/%dx%d", x.callers, x.groups), func(b *testing.B) {
			benchGroup(b, x.callers, x.groups, func(g *Group) error {
				v, err := g.Read(context.Background())
				if err == nil {
					v.Close()
				}
				return err
			})
		})
	}
}

func benchGroup(b *testing.B, callers, groups int, f func(*Group) error) {
	c := &testCluster{t: &testing.T{}, tb: b, net: newNetwork()}
	for g := range groups {
		c.groups = append(c.groups, eggs.GroupID(g))
	}
	for range 3 {
		c.nodes = append(c.nodes, &testNode{c: c, id: eggs.NodeID(len(c.nodes) + 1), dir: b.TempDir()})
	}
	c.startAll()
	c.begin()
	c.writable(20 * time.Second)
	leaders := make([]*Group, groups)
	for i, g := range c.groups {
		leaders[i] = c.leader(g).host.Group(g)
	}
	cpu := func() int64 {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	times := make([][]time.Duration, callers)
	before := cpu()
	b.ResetTimer()
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				t := time.Now()
				err := f(leaders[i%groups])
				for errors.Is(err, eggs.NotLeader) { // it was moved to where it belongs
					err = f(c.leader(c.groups[i%groups]).host.Group(c.groups[i%groups]))
				}
				if err != nil {
					b.Error(err)
					return
				}
				times[i] = append(times[i], time.Since(t))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e6, "ms-cpu/op")
	d := slices.Concat(times...)
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2])/1e6, "ms-p50")
	b.ReportMetric(float64(d[len(d)*99/100])/1e6, "ms-p99")
	for _, x := range c.nodes {
		x.stop()
	}
}
