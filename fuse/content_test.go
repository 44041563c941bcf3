package fuse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

func testLimits(t *testing.T, file int64) *limits {
	return &limits{fileMemory: file, totalMemory: 1 << 30, spillDir: t.TempDir(), spillMax: 1 << 30}
}

// Whatever a program does to a file under construction, it must read back and be
// published as an array of bytes would: this drives the three places of content against
// one, with a memory so small that every way from one place to another is taken.
func TestContentIsAnArray(t *testing.T) {
	m := fstest.NewMemory()
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			lim := testLimits(t, 16<<10)
			c := &content{lim: lim}
			var model []byte
			open := func() (client.Writer, error) {
				return m.Create(t.Context(), eggs.Root, fmt.Sprint("f", seed), client.CreateOptions{})
			}
			for step := range 120 {
				drive(t, r, c, &model, open)
				if c.size != int64(len(model)) {
					t.Fatalf("step %d: size %d, want %d", step, c.size, len(model))
				}
				got := make([]byte, len(model)+10)
				if n, err := c.read(got, 0); err != nil || n != len(model) || !bytes.Equal(got[:n], model) {
					t.Fatalf("step %d: reads other bytes, n %d of %d, %v", step, n, len(model), err)
				}
				if step%40 == 39 {
					check(t, m, c, model, open)
				}
			}
			c.drop()
			if lim.memory.Load() != 0 || lim.spill.Load() != 0 {
				t.Fatalf("%d bytes of memory and %d of disk leak", lim.memory.Load(), lim.spill.Load())
			}
		})
	}
}

func drive(
	t *testing.T, r *rand.Rand, c *content, model *[]byte, open func() (client.Writer, error),
) {
	size := len(*model)
	put := func(off, n int) {
		p := fstest.Pattern(n, byte(r.Uint32()))
		if err := c.write(p, int64(off), open); err != nil {
			t.Fatal(err)
		}
		if off+n > len(*model) {
			*model = append(*model, make([]byte, off+n-len(*model))...)
		}
		copy((*model)[off:], p)
	}
	switch k := r.IntN(20); {
	case k < 12:
		put(size, 1+r.IntN(5000))
	case k < 14:
		put(r.IntN(size+1), 1+r.IntN(9000))
	case k < 15:
		put(size+r.IntN(20000), 1+r.IntN(100))
	case k < 16:
		put(size+fillMax+r.IntN(4000), 1+r.IntN(100))
	case k < 18:
		n := r.IntN(size + 5000)
		if r.IntN(8) == 0 {
			n = 0
		}
		if err := c.truncate(int64(n)); err != nil {
			t.Fatal(err)
		}
		if n <= size {
			*model = (*model)[:n:n]
		} else {
			*model = append(*model, make([]byte, n-size)...)
		}
	case size > 0:
		off, n := r.IntN(size), 1+r.IntN(9000)
		if err := c.zero(int64(off), int64(n)); err != nil {
			t.Fatal(err)
		}
		clear((*model)[off:min(off+n, size)])
	}
}

// check publishes, compares, and leaves the published bytes as the base.
func check(
	t *testing.T, m *fstest.Memory, c *content, model []byte, open func() (client.Writer, error),
) {
	w := c.sent
	if w == nil {
		var err error
		if w, err = open(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.send(w); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := m.Open(t.Context(), w.ID())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, f.Size())
	if len(got) > 0 {
		if _, err := f.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, model) {
		t.Fatalf("published %d other bytes, want %d", len(got), len(model))
	}
	c.published(f)
}

// A file may not fill the mount's disk or keep a close busy for hours.
func TestContentLimits(t *testing.T) {
	lim := testLimits(t, 64<<10)
	lim.spillMax = 1 << 20
	c := &content{lim: lim}
	defer c.drop()
	if err := c.write([]byte("x"), maxHole+1, nil); eggs.KindOf(err) != eggs.TooLarge {
		t.Fatal(err)
	}
	if err := c.truncate(maxHole + 1); eggs.KindOf(err) != eggs.TooLarge {
		t.Fatal(err)
	}
	if err := c.write([]byte("x"), 10<<20, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.write(make([]byte, 1<<20), 0, nil); eggs.KindOf(err) != eggs.NoSpace {
		t.Fatal(err)
	}
	if got := make([]byte, 1); true {
		if n, err := c.read(got, 10<<20); n != 1 || err != nil || got[0] != 'x' {
			t.Fatal(n, err, got)
		}
	}
}
