//go:build measure

package raftgroup

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"eggsfs/eggs"
)

// What three idle nodes cost. It only reports, and only when asked to.
func TestIdleCost(t *testing.T) {
	secs, _ := strconv.Atoi(os.Getenv("EGGS_IDLE_SECONDS"))
	if secs == 0 {
		secs = 15
	}
	ps := newProcesses(t, 3, eggs.Groups)
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	time.Sleep(5 * time.Second)
	var cpu, rss int64
	for _, c := range ps.nodes {
		cpu -= int64(c.stat(false).CPU)
	}
	time.Sleep(time.Duration(secs) * time.Second)
	for _, c := range ps.nodes {
		s := c.stat(false)
		cpu += int64(s.CPU)
		rss += int64(s.RSS)
		t.Logf("node %s: %d KiB, %d threads, %+v", c.conf.ID, s.RSS, s.Threads, s.Stats)
	}
	t.Logf("three nodes: %.1f %% of a core, %d MiB", float64(cpu)/float64(secs)/1e7, rss>>10)
}

// What three nodes do under one writer a group. It only reports, when asked to.
func TestLoadCost(t *testing.T) {
	secs, _ := strconv.Atoi(os.Getenv("EGGS_LOAD_SECONDS"))
	if secs == 0 {
		secs = 5
	}
	ps := newProcesses(t, 3, eggs.Groups)
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	time.Sleep(5 * time.Second)
	var cpu time.Duration
	for _, c := range ps.nodes {
		cpu -= c.stat(false).CPU
	}
	var mu sync.Mutex
	total := 0
	var all sync.WaitGroup
	for _, c := range ps.nodes {
		all.Go(func() {
			a := c.ask(fmt.Sprint("load ", secs), time.Duration(secs+10)*time.Second)
			var n, p50 int
			_, _ = fmt.Sscan(a, &n, &p50)
			mu.Lock()
			defer mu.Unlock()
			total += n
			t.Logf("node %s: %d writes, half of them within %d µs", c.conf.ID, n, p50)
		})
	}
	all.Wait()
	for _, c := range ps.nodes {
		s := c.stat(false)
		cpu += s.CPU
		t.Logf("node %s: %d KiB, %+v %+v", c.conf.ID, s.RSS, s.Stats, s.Log)
	}
	t.Logf("%d writes/s at %v CPU each", total/secs, cpu/time.Duration(max(total, 1)))
}
