package blockd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"eggsfs/eggs"
)

// A write that comes after the erase must not bring the block back: neither one that the disk
// never had, nor one below the mark, nor after a restart.
func TestLateWritesAreRefused(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	block := func(n uint64) eggs.BlockID { return eggs.MakeBlockID(4, n) }
	put := func(id eggs.BlockID) error { return p.put(d, id, pattern(id, pageSize)) }
	must(t, put(block(10)))
	must(t, p.erase(d, block(10), uint64(block(8))))
	must(t, p.erase(d, block(12), uint64(block(8)))) // never had
	for range 2 {
		wantKind(t, put(block(10)), eggs.Stale)
		wantKind(t, put(block(12)), eggs.Stale)
		wantKind(t, put(block(7)), eggs.Stale) // below the mark
		must(t, put(block(8)))
		must(t, put(block(11)))
		must(t, put(eggs.MakeBlockID(5, 7))) // another shard's
		r.restart()
		p = r.dial()
	}
	must(t, p.erase(d, block(9), uint64(block(5)))) // a mark never falls
	wantKind(t, put(block(7)), eggs.Stale)
	must(t, p.erase(d, block(8), uint64(block(100))))
	for _, n := range []uint64{8, 10, 11, 12, 99} {
		wantKind(t, put(block(n)), eggs.Stale)
	}
	m := &r.disk(0).marks
	if m.records(); m.count != 0 {
		t.Fatalf("%d tombstones below the mark are kept", m.count)
	}
	_, _, err := p.get(d, block(11), pageSize, 0, 1)
	must(t, err) // what was certified stays, whatever the mark
}

// The erase comes while the put is under way: the client is half through with
// sending when the proof of erasure is given.
func TestEraseDuringPut(t *testing.T) {
	r := newRig(t, 1)
	d := r.disk(0).id
	for _, c := range []struct {
		name            string
		id, erase, mark eggs.BlockID
	}{
		{"by tombstone", eggs.MakeBlockID(1, 5), eggs.MakeBlockID(1, 5), 0},
		{"by mark", eggs.MakeBlockID(1, 6), eggs.MakeBlockID(1, 77), eggs.MakeBlockID(1, 7)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.dial()
			id := c.id
			data := pattern(id, 100*pageSize)
			cert := certFor(d, id, data)
			must(t, p.send(putRequest(onWire(cert, r.keys.WriteMAC(cert))), sumsOf(data), data[:50*pageSize]))
			wait(t, "the put has begun", func() bool {
				names, _ := r.disk(0).folder.Names("tmp")
				return len(names) == 1
			})
			must(t, r.dial().erase(d, c.erase, uint64(c.mark)))
			if _, err := p.nc.Write(data[50*pageSize:]); err != nil {
				t.Fatal(err)
			}
			_, err := p.receive()
			wantKind(t, err, eggs.Stale)
			if _, err := os.Stat(r.file(0, id)); !os.IsNotExist(err) {
				t.Fatal("the block is there", err)
			}
			if names, _ := r.disk(0).folder.Names("tmp"); len(names) != 0 {
				t.Fatal("left over", names)
			}
		})
	}
}

// Put and erase of one block at the same instant, many times: when both are answered the
// block is gone, whoever was first.
func TestEraseRacesPut(t *testing.T) {
	r := newRig(t, 1)
	d := r.disk(0).id
	a, b := r.dial(), r.dial()
	for i := range uint64(100) {
		id := eggs.MakeBlockID(9, 1+i)
		data := pattern(id, pageSize)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := a.put(d, id, data); err != nil && !errors.Is(err, eggs.Stale) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := b.erase(d, id, 0); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if _, _, err := a.get(d, id, pageSize, 0, 1); !errors.Is(err, eggs.NotExist) {
			t.Fatal(err)
		}
	}
	if n := r.status(0).Blocks; n != 0 {
		t.Fatalf("%d blocks are counted", n)
	}
}

// The power may go after the journal is on the disk and before the unlink is: a
// start unlinks what the journal says. Without it the block would be back, and leaked.
func TestUnlinkIsRepeated(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	id := eggs.MakeBlockID(2, 3)
	must(t, p.put(d, id, pattern(id, pageSize)))
	whole, err := os.ReadFile(r.file(0, id))
	must(t, err)
	must(t, p.erase(d, id, uint64(eggs.MakeBlockID(2, 100)))) // not even a tombstone is needed for it
	must(t, os.WriteFile(r.file(0, id), whole, 0o644))
	r.restart()
	_, _, err = r.dial().get(d, id, pageSize, 0, 1)
	wantKind(t, err, eggs.NotExist)
	wait(t, "the count is right", func() bool { return r.status(0).Blocks == 0 })
}

func (r *rig) journalPath() string {
	return filepath.Join(r.config.Disks[0].Path, journalName)
}

// The power may go while the journal is being written: what follows the last
// durable record is cut off at whatever byte, and appending goes on behind it.
func TestTornJournal(t *testing.T) {
	r := newRig(t, 1)
	d := r.disk(0).id
	id := func(n uint64) eggs.BlockID { return eggs.MakeBlockID(0, n) }
	p := r.dial()
	for n := uint64(1); n <= 3; n++ {
		must(t, p.erase(d, id(n), 0))
	}
	whole, err := os.ReadFile(r.journalPath())
	must(t, err)
	torn := record{kind: kindErased, id: id(50)}.append(nil, 3)
	torn = record{kind: kindErased, id: id(51)}.append(torn, 3)
	for cut := 0; cut < len(torn); cut += 5 {
		r.stop()
		tail := bytes.Clone(torn[:cut])
		if cut > recordBytes { // the first of the batch is damaged, the second may be whole
			tail = append(tail, torn[cut:]...)
			tail[3] ^= 0xff
		}
		must(t, os.WriteFile(r.journalPath(), append(bytes.Clone(whole), tail...), 0o644))
		r.start()
		if st := r.status(0); !st.Writable || st.Error != "" {
			t.Fatalf("cut at %d: %s", cut, st.Error)
		}
		p = r.dial()
		for n := uint64(1); n <= 3; n++ {
			wantKind(t, p.put(d, id(n), pattern(1, pageSize)), eggs.Stale)
		}
		must(t, p.put(d, id(50), pattern(1, pageSize)))
		must(t, p.erase(d, id(60), 0))
		r.restart()
		p = r.dial()
		wantKind(t, p.put(d, id(60), pattern(1, pageSize)), eggs.Stale)
	}
}

// A journal that lost durable records lets late writes through, so the disk takes
// none any more; but what is on it is still read. It says so in words.
func TestDamagedJournal(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(b []byte) []byte
	}{
		{"a flipped bit in a record", func(b []byte) []byte { b[recordBytes+20] ^= 1; return b }},
		{"a flipped bit in the header", func(b []byte) []byte { b[9] ^= 1; return b }},
		{"zeros in the middle", func(b []byte) []byte { clear(b[2*recordBytes : 3*recordBytes]); return b }},
		{"an empty journal", func([]byte) []byte { return nil }},
		{"no journal", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 2)
			p := r.dial()
			d := r.disk(0).id
			must(t, p.put(d, 1, pattern(1, pageSize)))
			for n := range uint64(4) {
				must(t, p.erase(d, eggs.MakeBlockID(0, 100+n), 0))
			}
			r.stop()
			if c.do == nil {
				must(t, os.Remove(r.journalPath()))
			} else {
				b, err := os.ReadFile(r.journalPath())
				must(t, err)
				must(t, os.WriteFile(r.journalPath(), c.do(b), 0o644))
			}
			r.start()
			p = r.dial()
			if st := r.status(0); st.Writable || !strings.Contains(st.Error, "erased") {
				t.Fatal(st)
			}
			wantKind(t, p.put(d, 2, pattern(2, pageSize)), eggs.BadDisk)
			wantKind(t, p.erase(d, 1, 0), eggs.BadDisk)
			_, _, err := p.get(d, 1, pageSize, 0, 1)
			must(t, err)
			must(t, p.put(r.disk(1).id, 2, pattern(2, pageSize)))
		})
	}
}

// The journal grows with every erase and must not grow for ever, while what is still needed
// of it survives its rewriting and a restart.
func TestJournalIsRewritten(t *testing.T) {
	r := newRig(t, 1)
	s := r.disk(0)
	const keep = 40
	var wg sync.WaitGroup
	for w := range uint64(64) {
		wg.Go(func() {
			for i := w; i < compactRecords+100; i += 64 {
				rec := record{kind: kindErased, id: eggs.MakeBlockID(1, 1000+i), mark: uint64(eggs.MakeBlockID(1, 900+i))}
				if i%200 == 0 {
					rec = record{kind: kindErased, id: eggs.MakeBlockID(2, i+1)} // stays
				}
				if err := s.erase(rec); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s.journal.count > compactRecords/2 {
		t.Fatalf("%d records", s.journal.count)
	}
	for range 2 {
		p := r.dial()
		for i := range uint64(keep) {
			id := eggs.MakeBlockID(2, i*200+1)
			wantKind(t, p.put(s.id, id, pattern(1, pageSize)), eggs.Stale)
		}
		for _, n := range []uint64{1, 1000, 9000, 900 + compactRecords} {
			wantKind(t, p.put(s.id, eggs.MakeBlockID(1, n), pattern(1, pageSize)), eggs.Stale)
		}
		must(t, p.put(s.id, eggs.MakeBlockID(1, 20000), pattern(1, pageSize)))
		r.restart()
	}
}

// Tombstones are bounded: more erases are refused, and a rising mark makes room.
func TestTombstonesAreBounded(t *testing.T) {
	var m marks
	const limit = 100
	for n := range uint64(limit) {
		must(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(3, n+1)}, limit))
	}
	wantKind(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(4, 1)}, limit), eggs.Busy)
	must(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(3, 1)}, limit)) // known already
	must(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(3, 1), mark: uint64(eggs.MakeBlockID(3, 500))}, limit))
	must(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(3, 501)}, limit))
	must(t, m.note(record{kind: kindErased, id: eggs.MakeBlockID(4, 1)}, limit))
}

// A model of one disk under random puts, erases and restarts: what was proved
// must hold at every moment.
func TestDiskModel(t *testing.T) {
	r := newRig(t, 1)
	p := r.dial()
	d := r.disk(0).id
	run := uint64(0)
	rapid.Check(t, func(t *rapid.T) {
		run++ // its blocks are above all that earlier runs erased
		there, erased, mark := map[uint64]bool{}, map[uint64]bool{}, uint64(0)
		id := func(n uint64) eggs.BlockID { return eggs.MakeBlockID(eggs.ShardID(run), run<<8+n) }
		draw := rapid.Uint64Range(1, 12)
		for range rapid.IntRange(1, 14).Draw(t, "steps") {
			n := draw.Draw(t, "n")
			switch rapid.SampledFrom([]string{"put", "put", "put", "erase", "erase", "restart"}).Draw(t, "do") {
			case "put":
				err := p.put(d, id(n), pattern(id(n), pageSize))
				if late := erased[n] || n < mark; late != errors.Is(err, eggs.Stale) || !late && err != nil {
					t.Fatalf("put %d: %v", n, err)
				}
				there[n] = there[n] || err == nil
			case "erase":
				h := rapid.Uint64Range(0, 6).Draw(t, "h")
				if err := p.erase(d, id(n), uint64(id(h))); err != nil {
					t.Fatal(err)
				}
				delete(there, n)
				erased[n], mark = true, max(mark, h)
			case "restart":
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					r.restart()
					p = r.dial()
				}
			}
			for n := uint64(1); n <= 12; n++ {
				_, _, err := p.get(d, id(n), pageSize, 0, 1)
				if there[n] != (err == nil) || err != nil && !errors.Is(err, eggs.NotExist) {
					t.Fatalf("get %d: %v", n, err)
				}
			}
		}
	})
}
