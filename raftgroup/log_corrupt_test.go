package raftgroup

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// smallLog makes a log with records of all kinds, pages that overflow and pages that are free, and
// returns what each group should hold, and the bytes of the file that are in use.
func smallLog(t *testing.T, path string) ([]*modelGroup, []byte) {
	t.Helper()
	l := openTestLog(t, path, LogOptions{noSync: true})
	r := rand.New(rand.NewPCG(11, 12))
	ms := make([]*modelGroup, 4)
	for i := range ms {
		ms[i] = &modelGroup{data: map[uint64]string{}}
	}
	for n := range 150 {
		i := r.IntN(len(ms))
		ms[i].step(t, r, l.Group(eggs.GroupID(i)))
		if n == 100 {
			truncateModel(t, l, ms, 20_000)
		}
	}
	big := &raft.Log{
		Index: ms[0].last + 1, Term: 10_000, Data: make([]byte, 10_000),
		Extensions: nil,
	}
	if big.Index%5 == 0 {
		big.Extensions = []byte("x")
	}
	if err := l.Group(0).StoreLog(big); err != nil {
		t.Fatal(err)
	}
	ms[0].last, ms[0].data[big.Index] = big.Index, string(big.Data)
	l.settle()
	l.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, meta := range []int{0, os.Getpagesize()} {
		used = max(used, int(binary.LittleEndian.Uint64(b[meta+16+40:]))*os.Getpagesize())
	}
	return ms, b[:used]
}

// Why: bbolt has no checksums but on two pages. Whatever byte of the file is damaged, a start
// must either find everything as it was (the byte was not in use) or say Corrupt and name the
// file. Never may it panic, start with other entries or votes, or with fewer.
func TestLogAnyByteDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.log")
	ms, good := smallLog(t, path)
	r := rand.New(rand.NewPCG(1, 1))
	found, harmless := 0, 0
	page := os.Getpagesize()
	for n := range 400 {
		bad := append([]byte(nil), good...)
		at := r.IntN(len(bad))
		if n%2 == 0 { // the headers and elements of pages matter most, and are few
			at = at/page*page + r.IntN(64)
		}
		bad[at] ^= byte(1 + r.IntN(255))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenLog(path, LogOptions{noSync: true, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			found++
			if !errors.Is(err, eggs.Corrupt) && !errors.Is(err, eggs.Unsupported) ||
				!strings.Contains(err.Error(), path) {
				t.Fatalf("byte %d of %d: %v", at, len(bad), err)
			}
			continue
		}
		harmless++
		for i, m := range ms {
			m.check(t, l.Group(eggs.GroupID(i)), 1)
		}
		l.Close()
	}
	t.Logf("%d bytes of %d: %d damages found, %d harmless", found+harmless, len(good), found, harmless)
	if found < 100 {
		t.Errorf("only %d damages found", found)
	}
}

// Why: a file that lost its end, as after a repair of the file system, must not be taken for a
// shorter log.
func TestLogCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.log")
	_, good := smallLog(t, path)
	for pages := range len(good) / os.Getpagesize() {
		if err := os.WriteFile(path, good[:pages*os.Getpagesize()+100], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLog(path, LogOptions{}); !errors.Is(err, eggs.Corrupt) {
			t.Fatalf("%d pages of %d: %v", pages, len(good)/os.Getpagesize(), err)
		}
	}
}

// Why: damage may come while the node runs. Reading an entry must then name file, sequence,
// group and index and end the node, and never return other bytes.
func TestLogDamagedWhileOpen(t *testing.T) {
	for _, how := range []string{"flipped", "cut"} {
		path := filepath.Join(t.TempDir(), "raft.log")
		var fatal error
		l := openTestLog(t, path, LogOptions{noSync: true, Fatal: func(err error) { fatal = err }})
		g := l.Group(17)
		for i := range uint64(200) {
			if err := g.StoreLog(&raft.Log{Index: i + 1, Data: []byte("some bytes to be found")}); err != nil {
				t.Fatal(err)
			}
		}
		l.settle()
		g.mu.Lock()
		g.recent = nil
		g.mu.Unlock()
		if how == "cut" {
			if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		} else {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), "to be found", "to be f0und")),
				0o600); err != nil {
				t.Fatal(err)
			}
		}
		var out raft.Log
		err := g.GetLog(150, &out)
		for _, want := range []string{path, "sequence 150", "group 17", "index 150"} {
			if !errors.Is(err, eggs.Corrupt) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", how, err, want)
			}
		}
		if fatal == nil {
			t.Errorf("%s: the node goes on", how)
		}
		if how == "flipped" {
			l.Close()
		}
	}
}

// Why: a power failure while the mover stores records leaves some of that commit's pages on the
// disk. Whether the file's meta page is the old one or the new one, file and journal together
// must be the log with all that was answered.
func TestLogPowerFailsDuringMove(t *testing.T) {
	dir := t.TempDir()
	path, torn := filepath.Join(dir, "raft.log"), filepath.Join(dir, "torn.log")
	page := os.Getpagesize()
	read := func() []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		used := int(max(binary.LittleEndian.Uint64(b[16+40:]), binary.LittleEndian.Uint64(b[page+16+40:])))
		return b[:used*page]
	}
	copyJournal := func(from, to string) {
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
			t.Error(err)
		}
	}
	var before, after []byte
	l := openTestLog(t, path, LogOptions{noSync: true, segment: 64 << 10, move: func(f func() error) error {
		copyJournal(path+".journal", torn+".kept")
		before = read()
		err := f()
		after = read()
		return err
	}})
	defer l.Close()
	r := rand.New(rand.NewPCG(8, 8))
	m := &modelGroup{data: map[uint64]string{}}
	g := l.Group(2)
	for n := range 60 {
		l.Group(1).StoreLog(&raft.Log{Index: uint64(n + 1)})
		m.step(t, r, g)
		l.settle()
		whole := append([]byte(nil), before...)
		whole = append(whole, make([]byte, max(0, len(after)-len(before)))...)
		for at := 2 * page; at < len(after); at += page {
			if r.IntN(2) == 0 {
				copy(whole[at:at+page], after[at:])
			}
		}
		for _, b := range [][]byte{whole, after} {
			if err := os.WriteFile(torn, b, 0o600); err != nil {
				t.Fatal(err)
			}
			copyJournal(torn+".kept", torn+".journal")
			c := openTestLog(t, torn, LogOptions{noSync: true})
			m.check(t, c.Group(2), 1)
			c.Close()
		}
	}
}
