package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"runtime"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// content returns n bytes that look like nothing.
func content(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

// smallSpans is a world whose files are cut small, so that little data goes
// through everything: spans of 256 KiB, 4+2, two stripes.
func smallSpans(t testing.TB, cfg clienttest.Config) (*clienttest.World, *client.Client) {
	w := clienttest.New(t, cfg)
	c := w.Client()
	if err := c.SetPolicy(bg, eggs.Root, policies(4, 10_000, 32<<10), 0); err != nil {
		t.Fatal(err)
	}
	return w, c
}

// TestSizes writes and reads files of every shape that the policy tells apart:
// none, inline, mirrored, with parity, several spans, and their edges.
func TestSizes(t *testing.T) {
	_, c := smallSpans(t, clienttest.Config{})
	const span = 256 << 10
	for i, n := range []int{
		0, 1, 64, 65, 4096, 10_000, 10_001, 131_072, 131_073, span - 1, span, span + 1,
		span + 64, span + 65, span + 10_001, 3*span - 4096, 3 * span,
	} {
		want := content(n)
		id := put(t, c, eggs.Root, fmt.Sprint(i), want)
		if got := get(t, c, id); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes differ", n)
		}
		if a, err := c.Stat(bg, id); err != nil || a.Size != int64(n) || a.Transient {
			t.Fatalf("%+v %v", a, err)
		}
		r, err := c.Open(bg, id)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // a fresh reader's random reads
			off := rand.Int63n(int64(n + 1))
			p := make([]byte, rand.Intn(20_000)+1)
			k, err := r.ReadAt(p, off)
			if k < len(p) && err != io.EOF || !bytes.Equal(p[:k], want[off:off+int64(k)]) {
				t.Fatalf("%d bytes: %d at %d: %v", n, k, off, err)
			}
		}
		r.Close()
	}
}

// TestRequests: a small file is one request, and one of n spans n + 1.
func TestRequests(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	put(t, c, eggs.Root, "warm", nil)
	time.Sleep(20 * time.Millisecond) // a lease may be under way
	for n, want := range map[int]int{0: 1, 64: 1, 5000: 2, 4 * 256 << 10: 5, 4*256<<10 + 10: 5} {
		before := w.Count(wire.MethodShard)
		put(t, c, eggs.Root, fmt.Sprint(n), content(n))
		if got := w.Count(wire.MethodShard) - before; got != want {
			t.Errorf("%d bytes: %d requests, want %d", n, got, want)
		}
	}
}

// TestInvisible: a name shows only whole files; what is given up leaves none.
func TestInvisible(t *testing.T) {
	_, c := smallSpans(t, clienttest.Config{})
	wr, err := c.Create(bg, eggs.Root, "f", client.CreateOptions{Mode: 0o640})
	if err != nil {
		t.Fatal(err)
	}
	want := content(600_000)
	for at := 0; at < len(want); at += 10_000 {
		if _, err := wr.Write(want[at:min(at+10_000, len(want))]); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Lookup(bg, eggs.Root, "f")
	wantKind(t, err, eggs.NotExist)
	got := make([]byte, len(want))
	if n, err := wr.ReadAt(got, 0); n != len(want) || err != nil && err != io.EOF ||
		!bytes.Equal(got, want) {
		t.Fatal("read back: ", n, err)
	}
	mode := uint32(0o600)
	mtime := eggs.Time(12345)
	wr.SetAttr(client.SetAttr{Mode: &mode, Mtime: &mtime})
	wr.Rename("g")
	if _, err := wr.Close(bg); err != nil {
		t.Fatal(err)
	}
	e, err := c.Lookup(bg, eggs.Root, "g")
	if err != nil || e.Attr.Mode != mode || e.Attr.Mtime != mtime || !bytes.Equal(get(t, c, e.Target), want) {
		t.Fatalf("%+v %v", e.Attr, err)
	}
	_, err = wr.Write([]byte("x"))
	wantKind(t, err, eggs.ReadOnly)

	wr, err = c.Create(bg, eggs.Root, "gone", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wr.Write(want); err != nil {
		t.Fatal(err)
	}
	wr.Abort()
	_, err = c.Lookup(bg, eggs.Root, "gone")
	wantKind(t, err, eggs.NotExist)
	if _, err := wr.Close(bg); err == nil {
		t.Fatal("closed what was given up")
	}
}

// TestReplace: a create over a file replaces it at Close, and says what it replaced.
func TestReplace(t *testing.T) {
	_, c := smallSpans(t, clienttest.Config{})
	old := put(t, c, eggs.Root, "f", content(100_000))
	wr, _ := c.Create(bg, eggs.Root, "f", client.CreateOptions{})
	wr.Write([]byte("new"))
	if got := get(t, c, old); len(got) != 100_000 {
		t.Fatal("the old content went before Close")
	}
	replaced, err := wr.Close(bg)
	if err != nil || replaced != old {
		t.Fatal(replaced, err)
	}
}

// TestExclusive: O_EXCL is decided at Create, between clients and within one.
func TestExclusive(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	other := w.Client()
	o := client.CreateOptions{Exclusive: true}
	wr, err := c.Create(bg, eggs.Root, "lock", o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Create(bg, eggs.Root, "lock", o)
	wantKind(t, err, eggs.Exist)
	_, err = c.Create(bg, eggs.Root, "lock", o)
	wantKind(t, err, eggs.Exist)
	wr.Abort()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if wr, err = other.Create(bg, eggs.Root, "lock", o); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the name stays reserved: ", err)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := wr.Close(bg); err != nil {
		t.Fatal(err)
	}
	_, err = c.Create(bg, eggs.Root, "lock", o)
	wantKind(t, err, eggs.Exist)
}

// TestDiskFails: a disk that refuses, hangs or is gone costs a span one more
// turn, and is not asked again soon.
func TestDiskFails(t *testing.T) {
	for name, fail := range map[string]func(w *clienttest.World){
		"an error": func(w *clienttest.World) {
			w.Disks()[1].Fail(eggs.E("test", eggs.IO, "broken"))
		},
		"full": func(w *clienttest.World) {
			w.Disks()[1].Fail(eggs.E("test", eggs.NoSpace, ""))
			w.Disks()[4].Fail(eggs.E("test", eggs.NoSpace, ""))
		},
		"its node is gone": func(w *clienttest.World) {
			for g := range eggs.Groups {
				w.Lead(eggs.GroupID(g), 0)
			}
			w.Nodes[2].Stop() // not published: nobody knows yet
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, c := smallSpans(t, clienttest.Config{Disks: 4})
			fail(w)
			want := content(1_000_000)
			id := put(t, c, eggs.Root, "f", want)
			if !bytes.Equal(get(t, c, id), want) {
				t.Fatal("the bytes differ")
			}
			if n := c.Counters().Replaced; n == 0 || n > 2 {
				t.Fatalf("%d spans were started anew", n)
			}
		})
	}
}

// TestHang: a node that hangs is left as soon as the picture says that it is
// dead, by those who write and by those who read.
func TestHang(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{Disks: 4})
	want := content(300_000)
	first := put(t, c, eggs.Root, "first", want)
	for g := range eggs.Groups {
		w.Lead(eggs.GroupID(g), 0)
	}
	for _, d := range w.Disks() {
		d.Stall(d.Node == w.Nodes[1])
	}
	time.AfterFunc(100*time.Millisecond, func() {
		w.Nodes[1].Declare(false)
		w.Publish()
	})
	start := time.Now()
	id := put(t, c, eggs.Root, "f", want)
	if !bytes.Equal(get(t, c, id), want) || !bytes.Equal(get(t, c, first), want) {
		t.Fatal("the bytes differ")
	}
	if d := time.Since(start); d > time.Second {
		t.Fatal("it took ", d)
	}
}

// TestTooFewDisks: when every choice fails the writer says so and leaves no name.
func TestTooFewDisks(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	w.Disks()[0].Fail(eggs.E("test", eggs.IO, "broken"))
	wr, err := c.Create(bg, eggs.Root, "f", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wr.Write(content(300_000))
	_, err = wr.Close(bg)
	wantKind(t, err, eggs.NoSpace)
	_, err = c.Lookup(bg, eggs.Root, "f")
	wantKind(t, err, eggs.NotExist)
}

// TestAnyBlocks: any P blocks may be missing, corrupt or out of reach, and
// any P+1 make a read fail and never return another byte.
func TestAnyBlocks(t *testing.T) {
	harm := map[string]func(d *clienttest.Disk){
		"missing":  func(d *clienttest.Disk) { d.Lose() },
		"corrupt":  func(d *clienttest.Disk) { d.Corrupt(false) },
		"refusing": func(d *clienttest.Disk) { d.Fail(eggs.E("test", eggs.IO, "broken")) },
	}
	for name, harm := range harm {
		t.Run(name, func(t *testing.T) {
			for a := range 6 {
				for b := a + 1; b < 6; b++ {
					if (a+b)%3 != 0 { // a third of the pairs says as much
						continue
					}
					w, c := smallSpans(t, clienttest.Config{})
					want := content(300_000)
					id := put(t, c, eggs.Root, "f", want)
					harm(w.Disks()[a])
					harm(w.Disks()[b])
					if got, err := load(c, id); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("without %d and %d: %v", a, b, err)
					}
					p := make([]byte, 100)
					r, _ := c.Open(bg, id)
					if _, err := r.ReadAt(p, 150_000); err != nil || !bytes.Equal(p, want[150_000:150_100]) {
						t.Fatal("a small read: ", err)
					}
					r.Close()
					harm(w.Disks()[(b+1)%6])
					if (b+1)%6 == a {
						continue
					}
					got, err := load(w.Client(), id)
					if k := eggs.KindOf(err); k != eggs.Corrupt && k != eggs.IO {
						t.Fatal("with too few blocks: ", err)
					}
					if len(got) > 0 && bytes.Equal(got, want) {
						t.Fatal("read what is not there")
					}
				}
			}
		})
	}
}

// TestWrongBlock: a block whose pages are good but which is not the one that
// was written is found out when the whole span is read, and done without.
func TestWrongBlock(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	want := content(200_000)
	id := put(t, c, eggs.Root, "f", want)
	w.Disks()[0].Corrupt(true)
	w.Disks()[3].Corrupt(true)
	if got, err := load(c, id); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
	if c.Counters().BadBlocks == 0 {
		t.Fatal("nobody was told")
	}
}

// TestReadWithoutNode: reading goes on when a node has gone, without waiting
// for it, and its disks are not asked again for each read.
func TestReadWithoutNode(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	want := content(2_000_000)
	id := put(t, c, eggs.Root, "f", want)
	for g := range eggs.Groups {
		w.Lead(eggs.GroupID(g), 0)
	}
	w.Nodes[1].Stop()
	start := time.Now()
	if !bytes.Equal(get(t, c, id), want) {
		t.Fatal("the bytes differ")
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Fatal("it took ", d)
	}
	w.Nodes[2].Stop() // now too few: the read waits for one to come back
	time.AfterFunc(200*time.Millisecond, func() {
		w.Nodes[1].Start()
		w.Publish()
	})
	if got, err := load(c, id); err != nil || !bytes.Equal(got, want) {
		t.Fatal(err)
	}
}

// TestParallelReaders: many goroutines read one file at once, in order and at
// random, through one Reader, and get the right bytes.
func TestParallelReaders(t *testing.T) {
	_, c := smallSpans(t, clienttest.Config{})
	want := content(5_000_000)
	id := put(t, c, eggs.Root, "f", want)
	r, err := c.Open(bg, id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(g)))
			p := make([]byte, 64<<10)
			for i := range 60 {
				off := int64(i) * int64(len(p))
				if g%2 == 1 {
					off = rnd.Int63n(int64(len(want)))
				}
				n, err := r.ReadAt(p, off)
				if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], want[off:off+int64(n)]) {
					t.Errorf("at %d: %d %v", off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestReadOnce: whoever reads a file from end to end has each byte fetched
// once, however large the pieces; who reads here and there, what it touches.
func TestReadOnce(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	const size = 24 << 20
	want := content(size)
	id := put(t, w.Client(), eggs.Root, "f", want)
	for _, piece := range []int{4 << 10, 128 << 10, 1 << 20, 1<<20 + 4096, 5 << 20, size} {
		c := w.Client()
		r, err := c.Open(bg, id)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, piece)
		for off := 0; off < size; off += piece {
			n, err := r.ReadAt(p, int64(off))
			if err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+n]) {
				t.Fatal(piece, off, n, err)
			}
		}
		r.Close()
		if got := c.Counters().BytesGot; got < size || got > size+size/8 {
			t.Errorf("in pieces of %d: %d bytes fetched for %d", piece, got, size)
		}
	}
	c := w.Client()
	r, err := c.Open(bg, id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := make([]byte, 4096)
	for i := range 100 {
		if _, err := r.ReadAt(p, int64(i*7919%(size>>12)<<12)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Counters().BytesGot; got > 100*2*4096 {
		t.Errorf("here and there: %d bytes fetched for %d", got, 100*4096)
	}
}

// TestMemory: a stream of many spans holds what doc.go says, not the file.
func TestMemory(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	wr, err := c.Create(bg, eggs.Root, "f", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer wr.Abort()
	p := content(1 << 20)
	var before, m runtime.MemStats
	runtime.ReadMemStats(&before)
	var high uint64
	for i := range 128 {
		if _, err := wr.Write(p); err != nil {
			t.Fatal(err)
		}
		if i%16 == 15 {
			for _, d := range w.Disks() {
				d.Lose() // what the disks hold is not the client's
			}
			runtime.GC()
			runtime.ReadMemStats(&m)
			high = max(high, m.HeapAlloc-min(before.HeapAlloc, m.HeapAlloc))
		}
	}
	t.Logf("%d MiB at most", high>>20)
	if high > 160<<20 { // the disks' share of a span under way included
		t.Fatalf("%d MiB for one stream", high>>20)
	}
}

// TestKeepAlive: an open file outlives the deadlines of its shard, while
// somebody holds it, and keeps its name reserved.
func TestKeepAlive(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	large, err := c.Create(bg, eggs.Root, "large", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	large.Write(content(300_000))
	small, err := c.Create(bg, eggs.Root, "small", client.CreateOptions{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	small.Write([]byte("x"))
	for i := range 8 { // four hours
		w.Advance(30 * time.Minute)
		before := w.Count(wire.MethodShard)
		client.KeepWriters(c, time.Now().Add(time.Duration(i+1)*30*time.Minute))
		for deadline := time.Now().Add(30 * time.Second); w.Count(wire.MethodShard) < before+2; {
			if time.Now().After(deadline) {
				t.Fatal("nothing was sent")
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond) // the answers
	}
	_, err = w.Client().Create(bg, eggs.Root, "small", client.CreateOptions{Exclusive: true})
	wantKind(t, err, eggs.Exist)
	for _, wr := range []client.Writer{large, small} {
		if _, err := wr.Close(bg); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBlockTLS: blocks travel the same with TLS.
func TestBlockTLS(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{})
	want := content(300_000)
	id := put(t, w.ClientWith(client.Options{BlockTLS: "on"}), eggs.Root, "f", want)
	if !bytes.Equal(get(t, w.ClientWith(client.Options{BlockTLS: "on"}), id), want) ||
		!bytes.Equal(get(t, c, id), want) {
		t.Fatal("the bytes differ")
	}
}

// TestListBlocks: blocks are listed over TLS also by a client whose block connections do without, as
// disks refuse it otherwise; and its connections of both sorts are not mixed up.
func TestListBlocks(t *testing.T) {
	_, c := smallSpans(t, clienttest.Config{})
	for i := range 3 {
		want := content(300_000 + i)
		id := put(t, c, eggs.Root, fmt.Sprint(i), want)
		found := 0
		for _, d := range c.Routes().Disks {
			blocks, end, err := c.ListBlocks(bg, eggs.DiskID(d.Id), 0, 1000)
			if err != nil || !end {
				t.Fatal(err, end)
			}
			found += len(blocks)
		}
		if found == 0 {
			t.Fatal("no block is listed")
		}
		if !bytes.Equal(get(t, c, id), want) {
			t.Fatal("the bytes differ")
		}
	}
}

// TestManyStreams: many large files at once share the memory that a few may have.
func TestManyStreams(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	const streams, size = 24, 5 << 20
	p := content(1 << 20)
	var writers []client.Writer
	for i := range streams {
		wr, err := c.Create(bg, eggs.Root, fmt.Sprint(i), client.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, wr)
	}
	for range size >> 20 {
		for _, wr := range writers {
			if _, err := wr.Write(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, wr := range writers {
		if _, err := wr.Close(bg); err != nil {
			t.Fatal(err)
		}
	}
	got := get(t, c, writers[streams-1].ID())
	for at := 0; at < size; at += len(p) {
		if !bytes.Equal(got[at:at+len(p)], p) {
			t.Fatal("the bytes differ at ", at)
		}
	}
}
