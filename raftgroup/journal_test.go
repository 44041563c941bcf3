package raftgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// stepFS calls before whenever the journal is about to change something.
type stepFS struct {
	vfs.FS
	before func()
}

type stepFile struct {
	vfs.File
	before func()
}

func (s stepFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	s.before()
	f, err := s.FS.OpenReadWrite(name, c, o...)
	return stepFile{f, s.before}, err
}

func (s stepFS) OpenDir(name string) (vfs.File, error) {
	f, err := s.FS.OpenDir(name)
	return stepFile{f, s.before}, err
}

func (s stepFS) Remove(name string) error { s.before(); return s.FS.Remove(name) }

func (s stepFile) WriteAt(b []byte, at int64) (int, error) { s.before(); return s.File.WriteAt(b, at) }
func (s stepFile) Sync() error                             { s.before(); return s.File.Sync() }
func (s stepFile) SyncData() error                         { s.before(); return s.File.SyncData() }

// image is what disks hold after the power failed: the log file and the journal.
type image struct {
	bolt  []byte
	mem   *vfs.MemFS
	acked uint64
}

// Why: an answer is given after one sync of the journal. Whenever the power fails, before any write,
// sync, creation or removal, with none, some or all of what was not synced on the disk,
// the log must come back with all that was answered and at most one write more; and again if
// the power fails a second time after the next write.
func TestJournalPowerFailsAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.log")
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	syncTo(t, mem, dir)
	r, chance := rand.New(rand.NewPCG(21, 4)), rand.New(rand.NewPCG(1, 4))
	var acked atomic.Uint64
	var mu sync.Mutex // the log file does not change while an image is taken
	var images []image
	steps := 0
	take := func() {
		mu.Lock()
		defer mu.Unlock()
		n := acked.Load()
		steps++
		if n == 0 || steps%4 > 0 { // not made yet, or too many to look at all of them
			return
		}
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: steps / 4 % 3 * 50, RNG: chance})
		images = append(images, image{usedPages(t, path), clone, n})
	}
	o := LogOptions{noSync: true, segment: 24 << 10, moveStart: 60 << 10, fs: stepFS{mem, take}}
	o.move = func(f func() error) error { mu.Lock(); defer mu.Unlock(); return f() }
	l := openTestLog(t, path, o)
	for n := range uint64(60) {
		if err := storeNumbered(l, n+1, 1+r.IntN(9000)); err != nil {
			t.Fatal(err)
		}
		acked.Store(n + 1)
	}
	l.Close()
	moves := l.Stats().Moves
	for i, m := range images {
		if err := os.WriteFile(path, m.bolt, 0o600); err != nil {
			t.Fatal(err)
		}
		c := openTestLog(t, path, LogOptions{noSync: true, segment: 24 << 10, fs: m.mem, MustExist: true})
		last := checkNumbered(t, c, m.acked, m.acked+1)
		if err := storeNumbered(c, last+1, 5000); err != nil {
			t.Fatal(err)
		}
		again := m.mem.CrashClone(vfs.CrashCloneCfg{})
		c.Close()
		c = openTestLog(t, path, LogOptions{noSync: true, segment: 24 << 10, fs: again, MustExist: true})
		checkNumbered(t, c, last+1, last+1)
		c.Close()
		if t.Failed() {
			t.Fatalf("image %d of %d, %d writes answered", i, len(images), m.acked)
		}
	}
	if len(images) < 30 || moves < 3 {
		t.Errorf("only %d images, %d moves", len(images), moves)
	}
}

// syncTo makes a new folder's name, and those above it, durable.
func syncTo(t *testing.T, fs vfs.FS, dir string) {
	t.Helper()
	for {
		d, err := fs.OpenDir(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if dir == "/" {
			return
		}
		dir = filepath.Dir(dir)
	}
}

// usedPages reads the pages of the log file that are in use; it is made larger by far.
func usedPages(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer f.Close()
	page, used := int64(os.Getpagesize()), int64(0)
	for meta := range int64(2) {
		var b [8]byte
		if _, err := f.ReadAt(b[:], meta*page+16+40); err != nil {
			t.Error(err)
		}
		used = max(used, int64(binary.LittleEndian.Uint64(b[:])))
	}
	b := make([]byte, used*page)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Error(err)
	}
	return b
}

// storeNumbered appends entry n of group 2, whose bytes tell what it is.
func storeNumbered(l *Log, n uint64, size int) error {
	data := make([]byte, 8+size)
	for at := 0; at+8 <= len(data); at += 8 {
		binary.BigEndian.PutUint64(data[at:], n)
	}
	return l.Group(2).StoreLog(&raft.Log{Index: n, Term: n, Data: data, AppendedAt: time.Now()})
}

// checkNumbered checks that the group has the entries up to at least lo and at most hi, and returns
// the last.
func checkNumbered(t *testing.T, l *Log, lo, hi uint64) uint64 {
	t.Helper()
	g := l.Group(2)
	last, _ := g.LastIndex()
	if last < lo || last > hi {
		t.Errorf("the last entry is %d, want %d to %d", last, lo, hi)
	}
	for n := uint64(1); n <= last; n++ {
		var e raft.Log
		if err := g.GetLog(n, &e); err != nil || e.Term != n || binary.BigEndian.Uint64(e.Data) != n {
			t.Errorf("entry %d: %v, %v", n, err, e.Term)
		}
	}
	return last
}

// filledJournal makes a log with 40 entries in several segments, none of them moved. It returns
// where the last frame is.
func filledJournal(t *testing.T, path string) (segment string, from, to int64) {
	t.Helper()
	l := openTestLog(t, path, LogOptions{noSync: true, segment: 32 << 10})
	for n := range uint64(40) {
		from = l.journal.pos
		if err := storeNumbered(l, n+1, int(n%5)*3000); err != nil {
			t.Fatal(err)
		}
	}
	segment, to = l.journal.last().path, l.journal.pos
	if from >= to {
		from = journalPage
	}
	if len(l.journal.chain) < 4 || l.Stats().Moves > 0 {
		t.Fatalf("%d segments, %d moves", len(l.journal.chain), l.Stats().Moves)
	}
	l.Close()
	return segment, from, to
}

// Why: damage is not a power failure. Whatever byte of the journal is damaged, a start must find
// everything (the byte was not in use), or say Corrupt and name the folder. Only the very
// last frame may be taken for torn.
func TestJournalAnyByteDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	segment, from, to := filledJournal(t, path)
	names, err := filepath.Glob(path + ".journal/*")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	bolt := usedPages(t, path)
	r := rand.New(rand.NewPCG(9, 1))
	found, harmless, torn := 0, 0, 0
	for n := range 200 {
		name := names[r.IntN(len(names))]
		at := r.Int64N(int64(len(files[name])))
		if n%2 == 0 {
			at = at/journalPage*journalPage + r.Int64N(60)
		}
		bad := append([]byte(nil), files[name]...)
		bad[at] ^= byte(1 + r.IntN(255))
		for other, b := range files {
			if other == name {
				b = bad
			}
			if err := os.WriteFile(other, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, bolt, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(path, LogOptions{noSync: true, segment: 32 << 10, MustExist: true})
		if err != nil {
			found++
			if !errors.Is(err, eggs.Corrupt) || !strings.Contains(err.Error(), path+".journal") {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
			continue
		}
		lo := uint64(40)
		if name == segment && at >= from && at < to {
			lo = 39
			torn++
		} else {
			harmless++
		}
		checkNumbered(t, l, lo, 40)
		l.Close()
		if t.Failed() {
			t.Fatalf("%s, byte %d", name, at)
		}
	}
	t.Logf("%d damages found, %d harmless, %d in the last frame", found, harmless, torn)
	if found < 50 || found == 200 {
		t.Error("the test damages too little")
	}
}

// Why: a segment that is missing holds answered changes and votes. The folder must not come back
// without it, whichever it is.
func TestJournalSegmentLost(t *testing.T) {
	for lost := range 5 {
		path := filepath.Join(t.TempDir(), "raft.log")
		filledJournal(t, path)
		names, err := filepath.Glob(path + ".journal/*")
		if err != nil {
			t.Fatal(err)
		}
		l := openTestLog(t, path, LogOptions{noSync: true, segment: 32 << 10})
		gone := path + ".journal"
		if lost < 4 {
			gone = l.journal.chain[lost*(len(l.journal.chain)-1)/3].path
		}
		l.Close()
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLog(path, LogOptions{MustExist: true}); !errors.Is(err, eggs.Corrupt) {
			t.Errorf("without %s of %v: %v", gone, names, err)
		}
	}
}

// Why: writers that are faster than the mover must wait for it, in small steps, or journal and
// memory grow without end.
func TestJournalIsBounded(t *testing.T) {
	const limit, segment = 256 << 10, 64 << 10
	path := filepath.Join(t.TempDir(), "raft.log")
	l := openTestLog(t, path, LogOptions{
		noSync: true, segment: segment, moveStart: segment, moveLimit: limit,
		move: func(f func() error) error { time.Sleep(5 * time.Millisecond); return f() },
	})
	most := int64(0)
	for n := range uint64(300) {
		if err := storeNumbered(l, n+1, 10_000); err != nil {
			t.Fatal(err)
		}
		most = max(most, l.Stats().Journal)
	}
	if most > limit+5*segment || most < limit/2 || l.Stats().Moves == 0 {
		t.Errorf("%d bytes of journal, %d moves", most, l.Stats().Moves)
	}
	l.Close()
	l = openTestLog(t, path, LogOptions{noSync: true, segment: segment})
	checkNumbered(t, l, 300, 300)
	l.Close()
}

// Why: what the mover could not store is unknown in the log file, and the journal may not outgrow
// it. The process ends, and nobody is answered after that.
func TestMoverFails(t *testing.T) {
	fatal := make(chan error, 1)
	l := openTestLog(t, filepath.Join(t.TempDir(), "raft.log"), LogOptions{
		noSync: true, moveStart: 1, Fatal: func(err error) { fatal <- err },
		move: func(func() error) error { return fmt.Errorf("no room: %w", eggs.NoSpace) },
	})
	if err := storeNumbered(l, 1, 10); err != nil {
		t.Fatal(err)
	}
	if err := <-fatal; !errors.Is(err, eggs.NoSpace) {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- storeNumbered(l, 2, 10) }()
	select {
	case err := <-answer:
		t.Fatalf("answered %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	l.Close()
	if err := <-answer; !errors.Is(err, eggs.Indeterminate) && !errors.Is(err, eggs.Unavailable) {
		t.Error(err)
	}
}
