package blockd

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/wire"
)

// A server that is closed leaves nothing running: nodes are stopped and started in tests all day.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The plain life of a block: it comes, any range of it is read, it is checked, listed and goes.
func TestLifeOfABlock(t *testing.T) {
	r := newRig(t, 2)
	p := r.dial()
	d := r.disk(1).id
	id := eggs.MakeBlockID(7, 1000)
	data := pattern(id, 300*pageSize)
	size := uint32(len(data))
	must(t, p.put(d, id, data))
	for _, c := range []struct{ off, n, first, bytes uint32 }{
		{0, size, 0, size},
		{0, 1, 0, pageSize},
		{pageSize - 1, 2, 0, 2 * pageSize},
		{pageSize, pageSize, pageSize, pageSize},
		{size - 1, 1, size - pageSize, pageSize},
		{100*pageSize + 5, 150 * pageSize, 100 * pageSize, 151 * pageSize},
	} {
		got, first, err := p.get(d, id, size, c.off, c.n)
		must(t, err)
		if first != c.first || !bytes.Equal(got, data[c.first:c.first+c.bytes]) {
			t.Errorf("[%d,+%d): %d bytes from %d on", c.off, c.n, len(got), first)
		}
	}
	must(t, p.check(d, id, size, crc32.Checksum(data, castagnoli)))
	if st := r.status(1); st.Blocks != 1 || !st.Writable || st.Error != "" || r.status(0).Blocks != 0 {
		t.Fatal(st)
	}
	infos, err := r.secure().list(d, 0)
	must(t, err)
	if len(infos) != 1 || infos[0].Id != uint64(id) || infos[0].Size != size ||
		time.Since(time.Unix(0, infos[0].Written)) > time.Minute {
		t.Fatal(infos)
	}
	must(t, p.put(d, id, data)) // the reply was lost, say
	if r.status(1).Blocks != 1 {
		t.Fatal("a repeated put is counted twice")
	}
	must(t, p.erase(d, id, 0))
	must(t, p.erase(d, id, 0))
	_, _, err = p.get(d, id, size, 0, 1)
	wantKind(t, err, eggs.NotExist)
	wantKind(t, p.check(d, id, size, 0), eggs.NotExist)
	if r.status(1).Blocks != 0 {
		t.Fatal("the count")
	}
}

// What lies on disks for years must not change by accident: the bytes of a block file.
func TestBlockFileIsFrozen(t *testing.T) {
	r := newRig(t, 1)
	id := eggs.MakeBlockID(3, 0xabcdef)
	data := pattern(id, 2*pageSize)
	must(t, r.dial().put(r.disk(0).id, id, data))
	b, err := os.ReadFile(filepath.Join(r.config.Disks[0].Path, "blocks", "03", "00000000abcdef03"))
	must(t, err)
	le := binary.LittleEndian
	want := append([]byte(nil), data...)
	want = append(want, "EGGSBLK\x01"...)
	want = le.AppendUint64(want, 0xabcdef03)
	want = le.AppendUint64(want, uint64(r.disk(0).id))
	want = append(want, b[len(data)+24:len(data)+32]...) // the time
	want = le.AppendUint32(want, 8192)
	want = le.AppendUint32(want, crc32.Checksum(data, castagnoli))
	want = le.AppendUint32(want, crc32.Checksum(sumsOf(data), castagnoli))
	want = append(want, make([]byte, 16)...)
	want = le.AppendUint32(want, crc32.Checksum(want[len(data):], castagnoli))
	want = append(want, sumsOf(data)...)
	if !bytes.Equal(b, want) {
		t.Fatalf("file of %d bytes, want %d; tail %x, want %x", len(b), len(want), b[8192:], want[8192:])
	}
	h, err := parseHeader(b[8192:8256])
	must(t, err)
	if age := time.Since(h.written.Std()); age < 0 || age > time.Minute {
		t.Fatal(age)
	}
	if sizeOf(fileSize(8192)) != 8192 || sizeOf(fileSize(eggs.MaxBlock)) != eggs.MaxBlock {
		t.Fatal("sizeOf is not the inverse of fileSize")
	}
}

// The checksum of a block is combined from its pages: it must be the one of its bytes.
func TestCombine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := pattern(eggs.BlockID(rapid.Uint64().Draw(t, "seed")), pageSize*rapid.IntRange(0, 9).Draw(t, "pages"))
		if combine(sumsOf(data)) != crc32.Checksum(data, castagnoli) {
			t.Fatal("combine differs")
		}
	})
}

// Requests that may not be: each is refused with its kind, and those that say the peer is
// no client of ours end the connection.
func TestRefusals(t *testing.T) {
	r := newRig(t, 1)
	d := r.disk(0).id
	id := eggs.MakeBlockID(1, 1)
	data := pattern(id, 4*pageSize)
	good := certFor(d, id, data)
	mac := r.keys.WriteMAC(good)
	get := func(c auth.BlockCert, off, n uint32) *wire.BlockRequest {
		return &wire.BlockRequest{Op: &wire.BlockRequest_Get{Get: &wire.GetBlock{
			Certificate: onWire(c, r.keys.ReadMAC(c)), Offset: off, Length: n,
		}}}
	}
	with := func(f func(*auth.BlockCert)) *wire.BlockRequest {
		c := good
		f(&c)
		return putRequest(onWire(c, r.keys.WriteMAC(c)))
	}
	for _, c := range []struct {
		name  string
		req   *wire.BlockRequest
		kind  eggs.Kind
		stays bool // the connection does, and the body is sent
	}{
		{"an empty request", &wire.BlockRequest{}, eggs.Unsupported, false},
		{"no certificate", putRequest(nil), eggs.Invalid, false},
		{"a forged certificate", putRequest(onWire(good, make([]byte, 16))), eggs.Permission, false},
		{"no MAC", putRequest(onWire(good, nil)), eggs.Permission, false},
		{"a MAC of another block", func() *wire.BlockRequest {
			c := good
			c.Block++
			return putRequest(onWire(c, mac))
		}(), eggs.Permission, false},
		{"a write MAC to read with", &wire.BlockRequest{Op: &wire.BlockRequest_Get{
			Get: &wire.GetBlock{Certificate: onWire(good, mac), Length: 1},
		}}, eggs.Permission, false},
		{"a write MAC to erase with", &wire.BlockRequest{Op: &wire.BlockRequest_Erase{
			Erase: &wire.EraseBlock{Certificate: onWire(good, mac)},
		}}, eggs.Permission, false},
		{"a block of odd size", with(func(c *auth.BlockCert) { c.Size++ }), eggs.Invalid, false},
		{"an empty block", with(func(c *auth.BlockCert) { c.Size = 0 }), eggs.Invalid, false},
		{"a huge block", with(func(c *auth.BlockCert) { c.Size = eggs.MaxBlock + pageSize }), eggs.Invalid, false},
		{"a disk that is elsewhere", with(func(c *auth.BlockCert) { c.Disk++ }), eggs.BadDisk, true},
		{"a checksum that the pages' do not give", with(func(c *auth.BlockCert) { c.CRC++ }), eggs.Corrupt, true},
		{"a read beyond the end", get(good, 4*pageSize-1, 2), eggs.Invalid, true},
		{"a read that overflows", get(good, 4096, ^uint32(0)), eggs.Invalid, true},
		{"a read of nothing", get(good, 0, 0), eggs.Invalid, true},
		{"a read of what is not there", get(good, 0, 1), eggs.NotExist, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dial()
			var raw [][]byte
			if c.stays && c.req.GetPut() != nil {
				raw = [][]byte{sumsOf(data), data}
			}
			_, err := p.call(c.req, raw...)
			wantKind(t, err, c.kind)
			err = p.put(d, eggs.MakeBlockID(1, 2), data)
			if (err == nil) != c.stays {
				t.Fatalf("afterwards: %v", err)
			}
		})
	}
	if _, err := os.Stat(r.file(0, id)); err == nil {
		t.Fatal("a refused block is there")
	}
}

// Bytes that are no request get an answer that people can read, and the door.
func TestGarbage(t *testing.T) {
	r := newRig(t, 1)
	for _, garbage := range []string{
		"\x05\x00\x00\x00\xff\xff\xff\xff\xff", "\xff\xff\xff\xffGET / HTTP/1.1\r\n\r\n",
	} {
		p := r.dial()
		p.nc.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := p.nc.Write([]byte(garbage)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.receive(); eggs.KindOf(err) != eggs.Invalid && eggs.KindOf(err) != eggs.TooLarge {
			t.Fatalf("%q: %v", garbage, err)
		}
		if _, err := p.nc.Read(make([]byte, 1)); err == nil {
			t.Fatal("the connection is still open")
		}
	}
	must(t, r.dial().put(r.disk(0).id, 1, pattern(1, pageSize)))
}

// A page that was changed on its way is refused before anything is stored,
// wherever in the block it is, and the connection goes on.
func TestDamageOnTheWay(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	data := pattern(1, 2*transferBytes+3*pageSize)
	c := certFor(d, 9, data)
	for _, at := range []int{0, pageSize + 1, transferBytes - 1, transferBytes, len(data) - 1} {
		bad := bytes.Clone(data)
		bad[at] ^= 0x10
		_, err := p.call(putRequest(onWire(c, r.keys.WriteMAC(c))), sumsOf(data), bad)
		wantKind(t, err, eggs.Corrupt)
		for _, part := range []string{d.String(), eggs.BlockID(9).String(), "offset", "wanted", "found"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %s", err, part)
			}
		}
	}
	if names, _ := r.disk(0).folder.Names("tmp"); len(names) != 0 || r.status(0).Blocks != 0 {
		t.Fatal("something was kept", names)
	}
	must(t, p.put(d, 9, data))
}

// A flipped bit anywhere in a block's file must be found: by the reader in what it
// reads, by check in all of it. No byte of the file is uncovered.
func TestBitFlips(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	data := pattern(5, 3*pageSize)
	size := uint32(len(data))
	must(t, p.put(d, 5, data))
	path := r.file(0, 5)
	whole, err := os.ReadFile(path)
	must(t, err)
	flip := func(at int) {
		b := bytes.Clone(whole)
		b[at] ^= 1
		must(t, os.WriteFile(path, b, 0o644))
	}
	for at := len(data); at < len(whole); at++ { // all of the trailer
		flip(at)
		wantKind(t, p.check(d, 5, size, 0), eggs.Corrupt)
	}
	for at := 0; at < len(data); at += 509 {
		flip(at)
		err := p.check(d, 5, size, 0)
		wantKind(t, err, eggs.Corrupt)
		if off := at / pageSize * pageSize; !strings.Contains(err.Error(), "offset "+itoa(off)) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if _, _, err := p.get(d, 5, size, uint32(at), 1); eggs.KindOf(err) != eggs.Corrupt {
			t.Fatalf("byte %d was read: %v", at, err)
		}
		p = r.dial() // the test's get stops in the middle of nothing, but be sure
	}
	flip(0)
	got, _, err := p.get(d, 5, size, pageSize, pageSize)
	must(t, err) // what is not read is not verified
	if !bytes.Equal(got, data[pageSize:2*pageSize]) {
		t.Fatal("wrong bytes")
	}
	for _, n := range []int{0, 100, len(data), len(whole) - 1} {
		must(t, os.WriteFile(path, whole[:n], 0o644))
		wantKind(t, p.check(d, 5, size, 0), eggs.Corrupt)
	}
	must(t, os.WriteFile(path, whole, 0o644))
	must(t, p.check(d, 5, size, crc32.Checksum(data, castagnoli)))
	wantKind(t, p.check(d, 5, size, 1), eggs.Corrupt)          // not the block the caller knows
	wantKind(t, p.check(d, 5, size-pageSize, 0), eggs.Corrupt) // not its size
	must(t, os.Rename(path, r.file(0, 5+256)))                 // a file in another's place
	wantKind(t, p.check(d, 5+256, size, 0), eggs.Corrupt)
	must(t, p.put(d, 5+256, pattern(5+256, 3*pageSize))) // writing it anew heals it
	must(t, p.check(d, 5+256, size, 0))
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// Listing must give every block once, in pages of any size, while shards differ.
func TestList(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	want := map[uint64]bool{}
	for i := range uint64(60) {
		id := eggs.MakeBlockID(eggs.ShardID(i*37), 1+i/3)
		must(t, p.put(d, id, pattern(id, pageSize)))
		want[uint64(id)] = true
	}
	must(t, os.WriteFile(r.file(0, eggs.MakeBlockID(0, 1))+".bak", nil, 0o644))
	_, err := p.list(d, 0)
	wantKind(t, err, eggs.Permission) // ids are for those who have the key
	must(t, p.put(d, eggs.MakeBlockID(0, 1), pattern(eggs.MakeBlockID(0, 1), pageSize)))
	p = r.secure()
	for _, limit := range []uint32{1, 7, 60, 0} {
		infos, err := p.list(d, limit)
		must(t, err)
		seen := map[uint64]bool{}
		for _, b := range infos {
			if seen[b.Id] || !want[b.Id] {
				t.Fatalf("block %x twice, or never written", b.Id)
			}
			seen[b.Id] = true
		}
		if len(seen) != len(want) {
			t.Fatalf("limit %d: %d of %d", limit, len(seen), len(want))
		}
	}
	_, err = p.list(d+1, 0)
	wantKind(t, err, eggs.BadDisk)
	r.restart()
	wait(t, "blocks are counted after a restart", func() bool { return r.status(0).Blocks == 60 })
}

// Over TLS the same bytes arrive, though not by sendfile.
func TestTLS(t *testing.T) {
	r := newRig(t, 1)
	p := r.secure()
	data := pattern(3, 3*transferBytes+pageSize)
	must(t, p.put(r.disk(0).id, 3, data))
	got, _, err := p.get(r.disk(0).id, 3, uint32(len(data)), 0, uint32(len(data)))
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Fatal("other bytes")
	}
}

// Slow and silent peers, and more peers than there is memory for, cost what they may and no more.
func TestLimits(t *testing.T) {
	r := newRig(t, 1, func(c *Config) {
		c.MaxConns, c.Stall, c.Idle = 2, 150*time.Millisecond, 600*time.Millisecond
	})
	d := r.disk(0).id
	slow := r.dial()
	data := pattern(1, 8*pageSize)
	c := certFor(d, 1, data)
	must(t, slow.send(putRequest(onWire(c, r.keys.WriteMAC(c))), sumsOf(data), data[:5000]))
	silent := r.dial()
	wait(t, "both are noted", func() bool {
		r.server.mu.Lock()
		defer r.server.mu.Unlock()
		return len(r.server.conns) == 2
	})
	_, err := r.dial().receive()
	wantKind(t, err, eggs.Busy)
	for _, p := range []*peer{slow, silent} {
		p.nc.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := p.nc.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
			t.Fatal("was not put out:", err)
		}
	}
	if names, _ := r.disk(0).folder.Names("tmp"); len(names) != 0 {
		t.Fatal("the slow one's file is still there")
	}
	p := r.dial() // one that has shown a certificate may pause for longer
	must(t, p.put(d, 1, data))
	time.Sleep(300 * time.Millisecond)
	must(t, p.put(d, 1, data))
}
