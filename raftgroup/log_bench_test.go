package raftgroup

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// Why: this is what every acknowledged change waits for. 256 groups append at once.
func BenchmarkLogAppend(b *testing.B) {
	for _, writers := range []int{1, 256} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			l := openTestLog(b, filepath.Join(b.TempDir(), "raft.log"), LogOptions{})
			defer l.Close()
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					g := l.Group(eggs.GroupID(w))
					for i := uint64(1); left.Add(-1) >= 0; i++ {
						if err := g.StoreLog(&raft.Log{Index: i, Data: make([]byte, 300), AppendedAt: time.Now()}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Why: a start reads the whole log, and a truncation must not hold writers up.
func BenchmarkLogLifeOf64MiB(b *testing.B) {
	for range b.N {
		path := filepath.Join(b.TempDir(), "raft.log")
		l := openTestLog(b, path, LogOptions{noSync: true})
		for i := uint64(1); l.Bytes() < 64<<20; i += 64 {
			var logs []*raft.Log
			for k := range uint64(64) {
				logs = append(logs, &raft.Log{Index: i + k, Data: make([]byte, 300), AppendedAt: time.Now()})
			}
			if err := l.Group(eggs.GroupID(i / 64 % 257)).StoreLogs(logs); err != nil {
				b.Fatal(err)
			}
		}
		l.Close()
		start := time.Now()
		l = openTestLog(b, path, LogOptions{})
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-open")
		b.ReportMetric(float64(l.next), "records")
		start = time.Now()
		c := &logCut{tail: 24 << 20}
		for i := range c.durable {
			c.durable[i] = 1 << 60
		}
		if _, err := l.cut(c); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-cut")
		go l.settle()
		start = time.Now()
		var worst time.Duration
		for n := 0; ; n++ {
			one := time.Now()
			if err := l.Group(0).SetUint64([]byte(keyTerm), uint64(n+1)); err != nil {
				b.Fatal(err)
			}
			worst = max(worst, time.Since(one))
			l.pending.mu.Lock()
			done := l.removed >= l.kept
			l.pending.mu.Unlock()
			if done {
				break
			}
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-remove")
		b.ReportMetric(float64(worst.Microseconds()), "us-worst-append")
		l.Close()
	}
}

// Why: the state must not be what limits a node: small updates in batches of 16, as raft hands
// them over.
func BenchmarkStateApply(b *testing.B) {
	s := openTestState(b, StateOptions{})
	defer s.Close()
	m := &scriptMachine{script: func(tx Tx, e Entry) any {
		tx.Get(e.Data)
		tx.Set(e.Data, e.Data)
		return nil
	}}
	g, err := s.Group(1, m)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	logs := make([]*raft.Log, 16)
	index := uint64(0)
	for range b.N / 16 {
		for k := range logs {
			index++
			logs[k] = &raft.Log{Index: index, Data: binary.BigEndian.AppendUint64(make([]byte, 24, 32), index*7919)}
		}
		g.ApplyBatch(logs)
	}
}

// Why: three nodes share a small machine; this is what an empty one of them takes for its stores.
func TestStoresAreSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	dir := t.TempDir()
	l := openTestLog(t, filepath.Join(dir, "raft.log"), LogOptions{noSync: true})
	defer l.Close()
	s, err := OpenState(filepath.Join(dir, "state"), StateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range eggs.GroupID(eggs.Groups) {
		g := openTestGroup(t, s, i)
		if err := l.Group(i).StoreLogs(putLogs(1, 3)); err != nil {
			t.Fatal(err)
		}
		if err := g.Attach(l.Group(i)); err != nil {
			t.Fatal(err)
		}
		replay(t, l.Group(i), g)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := (int64(after.Sys) - int64(before.Sys)) >> 20; grown > 40 {
		t.Errorf("the stores of an empty node take %d MiB", grown)
	} else {
		t.Logf("%d MiB of address space, %d KiB of heap", grown, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10)
	}
}
