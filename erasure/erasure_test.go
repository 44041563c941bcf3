package erasure

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"eggsfs/eggs"
)

func random(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// join is a block's content.
func join(cells [][]byte) []byte { return bytes.Join(cells, nil) }

func mustPlan(t testing.TB, size int64, p eggs.Parity, cell uint32) Layout {
	t.Helper()
	l, err := Plan(size, p, cell)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustEncode(t testing.TB, l Layout, data []byte) *Encoded {
	t.Helper()
	e, err := Encode(l, data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Plan's sizes end in the metadata for ever, so its edges are spelled out.
func TestPlan(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name    string
		size    int64
		p       eggs.Parity
		cell    uint32
		stripes uint8
		want    uint32
	}{
		{"one byte", 1, eggs.Parity{D: 4, P: 2}, mib, 1, 4096},
		{"a page and a byte for four blocks", 4097, eggs.Parity{D: 4, P: 2}, mib, 1, 4096},
		{"four pages and a byte", 4*4096 + 1, eggs.Parity{D: 4, P: 2}, mib, 1, 8192},
		{"exactly one stripe", 4 * mib, eggs.Parity{D: 4, P: 2}, mib, 1, mib},
		{"one byte more makes two stripes of half the size", 4*mib + 1, eggs.Parity{D: 4, P: 2}, mib, 2, mib/2 + 4096},
		{"the default large span", 32 * mib, eggs.Parity{D: 4, P: 2}, mib, 8, mib},
		{"cells grow when stripes are at their limit", 128 * mib, eggs.Parity{D: 4, P: 2}, 4096, 64, mib / 2},
		{"copies", 100_000, eggs.Parity{D: 1, P: 2}, mib, 1, 102400},
		{"no redundancy", 32 * mib, eggs.Parity{D: 1}, mib, 32, mib},
		{"a cell size that is not of pages is rounded up", 4 * mib, eggs.Parity{D: 4, P: 2}, mib - 1, 1, mib},
		{"rounding the cell must not leave an empty stripe", 65 * 4096, eggs.Parity{D: 1}, 4096, 33, 8192},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := mustPlan(t, c.size, c.p, c.cell)
			if l.Stripes != c.stripes || l.CellSize != c.want {
				t.Fatalf("%d stripes of %d, want %d of %d", l.Stripes, l.CellSize, c.stripes, c.want)
			}
			if err := l.Check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Layouts come over the wire and from policies: what makes no sense is refused in words.
func TestRefusals(t *testing.T) {
	p := eggs.Parity{D: 4, P: 2}
	for _, c := range []struct {
		name string
		size int64
		p    eggs.Parity
		cell uint32
		kind eggs.Kind
	}{
		{"nothing", 0, p, 4096, eggs.Invalid},
		{"negative", -1, p, 4096, eggs.Invalid},
		{"too large", eggs.MaxSpan + 1, p, 4096, eggs.TooLarge},
		{"no data block", 1, eggs.Parity{P: 2}, 4096, eggs.Invalid},
		{"too wide", 1, eggs.Parity{D: 17, P: 2}, 4096, eggs.Invalid},
		{"too much parity", 1, eggs.Parity{D: 1, P: 17}, 4096, eggs.Invalid},
		{"no cell", 1, p, 0, eggs.Invalid},
		{"huge cell", 1, p, eggs.MaxBlock + 1, eggs.Invalid},
	} {
		if _, err := Plan(c.size, c.p, c.cell); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, l := range []Layout{
		{},
		{Size: 1, Parity: p, Stripes: 0, CellSize: 4096},
		{Size: 1, Parity: p, Stripes: 65, CellSize: 4096},
		{Size: 1, Parity: p, Stripes: 1, CellSize: 4095},
		{Size: 4*4096 + 1, Parity: p, Stripes: 1, CellSize: 4096},
		{Size: 1, Parity: p, Stripes: 64, CellSize: eggs.MaxBlock},
	} {
		if l.Check() == nil {
			t.Errorf("%+v passes", l)
		}
	}
	l := mustPlan(t, 100, p, 4096)
	if _, err := Encode(l, make([]byte, 99)); !errors.Is(err, eggs.Invalid) {
		t.Error(err)
	}
	some := func(n ...int) (b [][]byte) {
		for _, n := range n {
			b = append(b, make([]byte, n))
		}
		return b
	}
	if err := Rebuild(l, some(8, 8, 8, 0, 0, 0), []int{3}); !errors.Is(err, eggs.Corrupt) {
		t.Error("three blocks of four are enough?", err)
	}
	if err := Rebuild(l, some(8, 8, 8, 9, 0, 0), []int{4}); !errors.Is(err, eggs.Invalid) {
		t.Error("different lengths:", err)
	}
	if err := Rebuild(l, some(8, 8, 8, 8, 0), []int{4}); !errors.Is(err, eggs.Invalid) {
		t.Error("five blocks:", err)
	}
	if err := Rebuild(l, some(8, 8, 8, 8, 0, 0), []int{6}); !errors.Is(err, eggs.Invalid) {
		t.Error("block 6:", err)
	}
}

// Every checksum that is combined must be the one that a plain pass over the bytes gives.
func TestCRC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "a")
		b := rapid.SliceOfN(rapid.Byte(), 0, 9000).Draw(t, "b")
		ab := append(append([]byte(nil), a...), b...)
		if CombineCRC(CRC(a), CRC(b), int64(len(b))) != CRC(ab) {
			t.Fatal("CombineCRC is not the checksum of both")
		}
		n := rapid.IntRange(0, 20000).Draw(t, "zeros")
		if ZerosCRC(CRC(a), int64(n)) != CRC(append(append([]byte(nil), a...), make([]byte, n)...)) {
			t.Fatal("ZerosCRC is not that of zeros")
		}
	})
	long := make([]byte, 7*eggs.PageSize)
	copy(long[100:], "pages")
	if CombinePages(PageCRCs(nil, long)) != CRC(long) {
		t.Fatal("CombinePages")
	}
	if CRC([]byte("123456789")) != 0xe3069283 {
		t.Fatal("this is not CRC32C")
	}
	if got := CombineCRC(CRC(long), ZerosCRC(0, 5<<30), 5<<30); got != ZerosCRC(CRC(long), 5<<30) {
		t.Fatal("lengths over 32 bits")
	}
}

// The whole contract of Encode, for any shape: cells tile the span, the padding is zeros,
// data is not copied, and every checksum is that of the bytes it says.
func TestEncodeAnyShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := eggs.Parity{
			D: uint8(rapid.IntRange(1, 16).Draw(t, "D")), P: uint8(rapid.IntRange(0, 6).Draw(t, "P")),
		}
		size := rapid.IntRange(1, 400_000).Draw(t, "size")
		cell := rapid.SampledFrom([]uint32{1, 4096, 8192, 20000, 65536, 1 << 20}).Draw(t, "cell")
		roomy := rapid.Bool().Draw(t, "roomy")
		l, err := Plan(int64(size), p, cell)
		if err != nil {
			t.Fatal(err)
		}
		data := random(uint64(size), size)
		if roomy {
			data = append(make([]byte, 0, l.Padded()), data...)
			for i := range data[size:cap(data)] { // what lay there before must not show
				data[:cap(data)][size+i] = 0xee
			}
		}
		e, err := Encode(l, data)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Release()
		checkEncoded(t, e, data, roomy)

		// Lose any P blocks and get everything back, of a range of pages.
		blocks := make([][]byte, p.Blocks())
		for b := range blocks {
			blocks[b] = join(e.Blocks[b])
		}
		from := rapid.IntRange(0, int(l.BlockSize())/4096-1).Draw(t, "from") * 4096
		part := make([][]byte, len(blocks))
		for b := range blocks {
			part[b] = blocks[b][from:]
		}
		lost := rapid.Permutation(seq(p.Blocks())).Draw(t, "lost")[:p.P]
		for _, b := range lost {
			part[b] = nil
		}
		if err := Rebuild(l, part, lost); err != nil {
			t.Fatal(err)
		}
		for _, b := range lost {
			if !bytes.Equal(part[b], blocks[b][from:]) {
				t.Fatalf("block %d came back different", b)
			}
		}
	})
}

func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func checkEncoded(t *rapid.T, e *Encoded, data []byte, roomy bool) {
	l := e.Layout
	var span []byte
	for s := range int(l.Stripes) {
		var stripe []byte
		for d := range int(l.Parity.D) {
			stripe = append(stripe, e.Blocks[d][s]...)
		}
		if CRC(stripe) != e.StripeCRCs[s] {
			t.Fatalf("checksum of stripe %d", s)
		}
		span = append(span, stripe...)
	}
	if !bytes.Equal(span[:len(data)], data) || len(bytes.Trim(span[len(data):], "\x00")) != 0 {
		t.Fatal("the cells are not the span and zeros")
	}
	if e.CRC != CRC(data) {
		t.Fatal("checksum of the span")
	}
	whole := len(data) / int(l.CellSize)
	for i := range int(l.Parity.D) * int(l.Stripes) {
		c := e.Blocks[i%int(l.Parity.D)][i/int(l.Parity.D)]
		if (i < whole || roomy) && &c[0] != &data[:cap(data)][i*int(l.CellSize)] {
			t.Fatalf("cell %d was copied", i)
		}
	}
	for b := range e.Blocks {
		content := join(e.Blocks[b])
		if len(content) != int(l.BlockSize()) {
			t.Fatalf("block %d has %d bytes", b, len(content))
		}
		if CRC(content) != e.BlockCRCs[b] || !bytes.Equal(PageCRCs(nil, content), e.PageCRCs[b]) {
			t.Fatalf("checksums of block %d", b)
		}
	}
}

// A reader that locates every byte must get the span, and Extents must tile any range.
func TestLocate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := eggs.Parity{D: uint8(rapid.IntRange(1, 5).Draw(t, "D"))}
		size := rapid.IntRange(1, 100_000).Draw(t, "size")
		l, err := Plan(int64(size), p, 8192)
		if err != nil {
			t.Fatal(err)
		}
		data := random(7, size)
		e, err := Encode(l, data)
		if err != nil {
			t.Fatal(err)
		}
		off := rapid.IntRange(0, size-1).Draw(t, "off")
		n := rapid.IntRange(0, size+10).Draw(t, "n")
		var got []byte
		for x := range l.Extents(int64(off), int64(n)) {
			if x.Span != int64(off+len(got)) || l.SpanOffset(x.Block, x.Offset) != x.Span {
				t.Fatalf("%+v is at %d", x, off+len(got))
			}
			got = append(got, join(e.Blocks[x.Block])[x.Offset:x.Offset+x.Length]...)
		}
		if !bytes.Equal(got, data[off:min(off+n, size)]) {
			t.Fatal("extents give other bytes")
		}
	})
	if from, to := PageRange(5000, 4096); from != 4096 || to != 12288 {
		t.Fatal(from, to)
	}
}

// Each way to lose up to two blocks of 4+2 is tried, and each single want: this is the
// shape that most spans have.
func TestRebuildEveryLossOf4And2(t *testing.T) {
	l := mustPlan(t, 3*4*8192-5000, eggs.Parity{D: 4, P: 2}, 8192)
	e := mustEncode(t, l, random(3, int(l.Size)))
	for i := range 6 {
		for j := range 6 {
			for _, want := range [][]int{{i}, {j}, {i, j}} {
				blocks := make([][]byte, 6)
				for b := range blocks {
					blocks[b] = join(e.Blocks[b])
				}
				blocks[i], blocks[j] = nil, make([]byte, 0, l.BlockSize())
				place := blocks[j][:1]
				if err := Rebuild(l, blocks, want); err != nil {
					t.Fatal(err)
				}
				for _, b := range want {
					if !bytes.Equal(blocks[b], join(e.Blocks[b])) {
						t.Fatalf("lost %d and %d: block %d differs", i, j, b)
					}
				}
				if len(want) == 1 && i != j && len(blocks[i+j-want[0]]) != 0 {
					t.Fatalf("block %d was not wanted", i+j-want[0])
				}
				if len(blocks[j]) > 0 && &place[0] != &blocks[j][0] {
					t.Fatal("the memory that was offered was not used")
				}
			}
		}
	}
}

// Copies cost no copying, neither out nor in.
func TestMirrors(t *testing.T) {
	l := mustPlan(t, 10_000, eggs.Parity{D: 1, P: 2}, 4096)
	data := append(make([]byte, 0, l.Padded()), random(5, 10_000)...)
	e := mustEncode(t, l, data)
	for b := range 3 {
		if &e.Blocks[b][0][0] != &data[0] || e.BlockCRCs[b] != e.BlockCRCs[0] {
			t.Fatalf("copy %d is a copy", b)
		}
	}
	blocks := [][]byte{nil, data, make([]byte, 0, len(data))}
	if err := Rebuild(l, blocks, []int{0, 2}); err != nil {
		t.Fatal(err)
	}
	if &blocks[0][0] != &data[0] || &blocks[2][0] == &data[0] || !bytes.Equal(blocks[2], data) {
		t.Fatal("a nil mirror aliases, one with memory is filled")
	}
}

// The code is frozen: blocks written today must be readable for ever, whatever
// a newer library would like for its default matrix.
func TestGoldenParity(t *testing.T) {
	for _, c := range []struct {
		p    eggs.Parity
		want []uint32
	}{
		{eggs.Parity{D: 2, P: 1}, []uint32{938848039}},
		{eggs.Parity{D: 4, P: 2}, []uint32{3791233180, 655023848}},
		{eggs.Parity{D: 10, P: 4}, []uint32{979025526, 1355835737, 555939132, 1365747984}},
	} {
		l := mustPlan(t, 100_000, c.p, 8192)
		data := make([]byte, 100_000)
		x := uint32(1)
		for i := range data {
			x = x*1664525 + 1013904223
			data[i] = byte(x >> 24)
		}
		e := mustEncode(t, l, data)
		if d := cmp.Diff(c.want, e.BlockCRCs[c.p.D:]); d != "" {
			t.Errorf("%s: %s", c.p, d)
		}
	}
}

// Buffers come back to the pool with the capacity they were made with.
func TestBufferClasses(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 4097, 5120, 5121, 1<<20 - 1, 1 << 20, 1<<20 + 1, 16 * eggs.MaxSpan} {
		class, capacity := bufferClass(n)
		again, same := bufferClass(capacity)
		if capacity < n || again != class || same != capacity || class >= len(pools) {
			t.Errorf("%d: class %d of %d, then %d of %d", n, class, capacity, again, same)
		}
		if n > 4096 && float64(n) < 0.79*float64(capacity) {
			t.Errorf("%d in %d wastes too much", n, capacity)
		}
	}
	b := NewBuffer(10_000)
	if len(b.Bytes) != 10_000 {
		t.Fatal(len(b.Bytes))
	}
	b.Release()
	(*Buffer)(nil).Release()
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range []struct {
		p    eggs.Parity
		size int64
	}{{eggs.Parity{D: 4, P: 2}, 32 << 20}, {eggs.Parity{D: 10, P: 4}, 32 << 20}, {eggs.Parity{D: 1, P: 2}, 32 << 20}, {eggs.Parity{D: 4, P: 2}, 256 << 10}} {
		b.Run(c.p.String()+"/"+sizeName(c.size), func(b *testing.B) {
			l := mustPlan(b, c.size, c.p, 1<<20)
			data := append(make([]byte, 0, l.Padded()), random(1, int(c.size))...)
			b.SetBytes(c.size)
			b.ReportAllocs()
			for b.Loop() {
				mustEncode(b, l, data).Release()
			}
		})
	}
}

func BenchmarkRebuild(b *testing.B) {
	l := mustPlan(b, 32<<20, eggs.Parity{D: 4, P: 2}, 1<<20)
	e := mustEncode(b, l, random(1, 32<<20))
	blocks := make([][]byte, 6)
	for i := range blocks {
		blocks[i] = join(e.Blocks[i])
	}
	b.SetBytes(int64(l.BlockSize()))
	for b.Loop() {
		blocks[1], blocks[3] = blocks[1][:0], nil
		if err := Rebuild(l, blocks, []int{1}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCRC(b *testing.B) {
	data := random(1, 1<<20)
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			crc32.Checksum(data, Castagnoli)
		}
	})
	b.Run("pages", func(b *testing.B) {
		b.SetBytes(1 << 20)
		table := make([]byte, 0, 1024)
		for b.Loop() {
			CombinePages(PageCRCs(table[:0], data))
		}
	})
}

func sizeName(n int64) string {
	if n >= 1<<20 {
		return "MiB"
	}
	return "small"
}
