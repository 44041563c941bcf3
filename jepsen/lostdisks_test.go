package jepsen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// largeFiles are files of more than 16 MiB, which are coded 4+2, each a cut of the same random bytes at
// another place: so a block of another file, or of another place, is seen to be wrong.
type largeFiles struct {
	count  int
	random []byte
}

const (
	cutSize  = 17 << 20 // bytes of the first file; each is a little longer than the one before
	cutGrow  = 4099
	cutShift = 65537
)

func newLargeFiles(count int) *largeFiles {
	seed := [32]byte{1: byte(rand.Uint32()), 2: byte(rand.Uint32())}
	x := &largeFiles{count: count, random: make([]byte, cutSize+count*(cutGrow+cutShift))}
	_, _ = rand.NewChaCha8(seed).Read(x.random)
	return x
}

func (x *largeFiles) content(i int) []byte {
	return x.random[i*cutShift:][:cutSize+i*cutGrow]
}

func (x *largeFiles) path(mnt string, i int) string { return filepath.Join(mnt, fmt.Sprint("f", i)) }

// each calls do for every file, some at a time.
func (x *largeFiles) each(t *testing.T, atOnce int, do func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	for i := range x.count {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := do(i); err != nil {
				t.Errorf("file %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func (x *largeFiles) write(t *testing.T, mnt string) {
	t.Helper()
	x.each(t, 3, func(i int) error { return os.WriteFile(x.path(mnt, i), x.content(i), 0o644) })
}

// read returns how much of a file was read, what ended that, and whether the bytes were right.
func (x *largeFiles) read(mnt string, i int) (n int, right bool, err error) {
	want := x.content(i)
	f, err := os.Open(x.path(mnt, i))
	if err != nil {
		return 0, true, err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for {
		k, err := f.Read(b)
		if n+k > len(want) || !bytes.Equal(b[:k], want[n:n+k]) {
			return n, false, err
		}
		n += k
		if err != nil {
			return n, true, err
		}
	}
}

// compare fails unless every file reads right through a new mount, which has nothing cached.
func (x *largeFiles) compare(t *testing.T, c *Cluster, what string) {
	t.Helper()
	begin := time.Now()
	m, err := c.Mount()
	must(t, err)
	defer m.Close()
	x.each(t, 3, func(i int) error {
		n, right, err := x.read(m.Dir, i)
		if !right || n != len(x.content(i)) || !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %d of %d bytes, right: %v, then %w", what, n, len(x.content(i)), right, err)
		}
		return nil
	})
	t.Logf("%s: %d files read right in %s", what, x.count, time.Since(begin).Round(time.Second))
}

// TestLostDisks: files survive the loss of all disks of a node and a flipped bit in any block of
// each span, and with too little left a read fails; it is never wrong.
func TestLostDisks(t *testing.T) {
	c := start(t, 3)
	mnt := mount(t, c)
	x := newLargeFiles(50)
	x.write(t, mnt)
	spans := spansOf(t, c, x)
	mend := flipOneBlockOfEach(t, c, spans)
	x.compare(t, c, "a bit flipped in a block of each span")
	mend()
	must(t, os.RemoveAll(c.Node(0).Data+"/blocks")) // under the running node
	x.compare(t, c, "all block folders of one node gone")
	c.Node(0).Kill()
	must(t, c.Start())
	must(t, os.RemoveAll(c.Node(1).Data+"/blocks"))
	m, err := c.Mount()
	must(t, err)
	begin := time.Now()
	x.each(t, x.count, func(i int) error {
		n, right, err := x.read(m.Dir, i)
		if !right || !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("with two thirds of its blocks gone: %d bytes, right: %v, then %w", n, right, err)
		}
		return nil
	})
	t.Logf("two nodes' block folders gone: EIO for all in %s", time.Since(begin).Round(time.Second))
}

// spansOf returns the blocks of each span of the files, and fails unless they are
// spread so that a node's loss costs each a third.
func spansOf(t *testing.T, c *Cluster, x *largeFiles) (spans [][]*wire.Block) {
	t.Helper()
	ctx := context.Background()
	l := library(t, c)
	nodeOf := map[uint64]uint64{}
	for _, d := range l.Routes().Disks {
		nodeOf[d.Id] = d.Node
	}
	for i := range x.count {
		a, err := l.Walk(ctx, fmt.Sprint("/f", i))
		must(t, err)
		for _, blocks := range spansOfFile(t, l, a.ID) {
			count := map[uint64]int{}
			for _, b := range blocks {
				count[nodeOf[b.Disk]]++
			}
			for node, n := range count {
				if 3*n > len(blocks) {
					t.Fatalf("file %d: node %x has %d of the %d blocks of a span", i, node, n, len(blocks))
				}
			}
			spans = append(spans, blocks)
		}
	}
	if len(spans) < x.count {
		t.Fatalf("%d spans of %d files", len(spans), x.count)
	}
	return spans
}

func spansOfFile(t *testing.T, l *client.Client, id eggs.InodeID) (spans [][]*wire.Block) {
	t.Helper()
	ans, err := l.Query(context.Background(), &wire.ShardQuery{
		Shard: uint32(id.Shard()),
		Query: &wire.ShardQuery_GetSpans{GetSpans: &wire.GetSpans{File: uint64(id), Length: 1 << 40}},
	})
	must(t, err)
	for _, s := range ans.GetGetSpans().GetSpans() {
		for _, at := range s.Locations {
			spans = append(spans, at.Blocks)
		}
	}
	return spans
}

// flipOneBlockOfEach flips a bit somewhere in one block of each span, whichever.
// It returns what turns them back.
func flipOneBlockOfEach(t *testing.T, c *Cluster, spans [][]*wire.Block) (mend func()) {
	t.Helper()
	files := map[string]string{}
	for _, n := range c.Nodes() {
		must(t, filepath.WalkDir(n.Data+"/blocks", func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && isBlock(path) {
				files[strings.TrimSuffix(d.Name(), filepath.Ext(path))] = path
			}
			return err
		}))
	}
	type flipped struct {
		path string
		at   int64
		mask byte
	}
	var all []flipped
	for _, blocks := range spans {
		b := blocks[rand.IntN(len(blocks))]
		path := files[eggs.BlockID(b.Id).String()]
		st, err := os.Stat(path)
		must(t, err)
		f := flipped{path, rand.Int64N(st.Size()), byte(1) << rand.IntN(8)}
		must(t, flip(f.path, f.at, f.mask))
		all = append(all, f)
	}
	return func() {
		for _, f := range all {
			if err := flip(f.path, f.at, f.mask); !os.IsNotExist(err) { // repaired meanwhile, elsewhere
				must(t, err)
			}
		}
	}
}

func flip(path string, at int64, mask byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= mask
	_, err = f.WriteAt(b, at)
	return err
}
