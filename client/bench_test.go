package client_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
)

// The figures of these include the servers, which run in the same process: compare
// them with themselves, before and after a change.

func BenchmarkCreate(b *testing.B) {
	w := clienttest.New(b, clienttest.Config{})
	c := w.Client()
	dirs := make([]eggs.InodeID, 16)
	for i := range dirs {
		dirs[i] = mkdir(b, c, eggs.Root, fmt.Sprint("d", i))
	}
	data := content(1024)
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				put(b, c, dirs[i%16], fmt.Sprint(i), data)
			}
		})
	}
	wg.Wait()
}

func BenchmarkWrite(b *testing.B) {
	w := clienttest.New(b, clienttest.Config{})
	c := w.Client()
	p := content(1 << 20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	wr, err := c.Create(bg, eggs.Root, "f", client.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := range b.N {
		if _, err := wr.Write(p); err != nil {
			b.Fatal(err)
		}
		if i%64 == 63 {
			for _, d := range w.Disks() {
				d.Lose()
			}
		}
	}
	if _, err := wr.Close(bg); err != nil {
		b.Fatal(err)
	}
}

func benchRead(b *testing.B, p []byte, next func(i int) int64, harm func(w *clienttest.World)) {
	w := clienttest.New(b, clienttest.Config{})
	c := w.Client()
	const size = 64 << 20
	id := put(b, c, eggs.Root, "f", content(size))
	if harm != nil {
		harm(w)
	}
	r, err := c.Open(bg, id)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := r.ReadAt(p, next(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func inOrder(n int) func(i int) int64 {
	return func(i int) int64 { return int64(i) * int64(n) % (64 << 20) }
}

func BenchmarkReadInOrder(b *testing.B) {
	benchRead(b, make([]byte, 128<<10), inOrder(128<<10), nil)
}

func BenchmarkReadRebuilding(b *testing.B) {
	benchRead(b, make([]byte, 128<<10), inOrder(128<<10), func(w *clienttest.World) { w.Disks()[0].Lose() })
}

func BenchmarkReadAnywhere(b *testing.B) {
	benchRead(b, make([]byte, 4096), func(i int) int64 { return int64(i*7919%(16<<10)) * 4096 }, nil)
}
