package disk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

func open(t *testing.T, o Options) *Folder {
	t.Helper()
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A disk keeps its id for ever; where it is mounted does not matter.
func TestIdentityStays(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "disk")
	f := open(t, Options{Path: dir, Cluster: 7, Node: 9})
	id := f.Identity()
	if id.Disk == 0 || id.Cluster != 7 || id.Node != 9 {
		t.Fatalf("%+v", id)
	}
	f.Close()
	moved := filepath.Join(filepath.Dir(dir), "moved")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	f = open(t, Options{Path: moved, Want: id.Disk, Cluster: 7})
	again := f.Identity()
	if !again.Made.Equal(id.Made) {
		t.Fatalf("%+v became %+v", id, again)
	}
	again.Made = id.Made
	if again != id {
		t.Fatalf("%+v became %+v", id, f.Identity())
	}
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
}

// Whatever stands where a disk should be is refused with its own words: taking
// it for the old disk would turn every block of that into a lost one.
func TestOpenRefusals(t *testing.T) {
	top := t.TempDir()
	path := func(name string) string { return filepath.Join(top, name) }
	for _, name := range []string{"empty", "foreign", "damaged", "newer"} {
		if err := os.Mkdir(path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("foreign/letter", "dear")
	write("newer/identity", "eggsfs-disk 2\nwhatever\n")
	other := open(t, Options{Path: path("other"), Cluster: 1})
	id := other.Identity()
	write("damaged/identity", strings.Replace(string(id.text()), "node 0", "node 1", 1))
	locked := open(t, Options{Path: path("locked")})
	other.Close()
	for _, c := range []struct {
		name string
		o    Options
		kind eggs.Kind
		says string
	}{
		{"a missing folder", Options{Path: path("none"), Want: 5}, eggs.NotExist, "no such file"},
		{"an emptied folder", Options{Path: path("empty"), Want: 5}, eggs.NotExist, "empty"},
		{"a folder without identity", Options{Path: path("foreign"), Want: 5}, eggs.NotExist, "no identity"},
		{"somebody's folder", Options{Path: path("foreign")}, eggs.Conflict, "neither empty nor"},
		{"another disk", Options{Path: path("other"), Want: 5}, eggs.Conflict, id.Disk.String()},
		{"another cluster's disk", Options{Path: path("other"), Cluster: 2}, eggs.WrongCluster, "belongs to"},
		{"a damaged identity", Options{Path: path("damaged")}, eggs.Corrupt, "checksum"},
		{"a newer format", Options{Path: path("newer")}, eggs.Version, "format 2"},
		{"a disk in use", Options{Path: path("locked")}, eggs.InUse, "another process"},
		{"a file", Options{Path: path("foreign/letter")}, eggs.IO, "not a directory"},
	} {
		f, err := Open(c.o)
		if err == nil {
			f.Close()
			t.Errorf("%s: opened", c.name)
			continue
		}
		if !errors.Is(err, c.kind) && eggs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if b, err := os.ReadFile(path("foreign/letter")); string(b) != "dear" {
		t.Fatal("the refused folder was touched", err)
	}
	if names, _ := os.ReadDir(path("empty")); len(names) != 0 {
		t.Fatal("the refused empty folder was written to")
	}
	if err := locked.Check(); err != nil {
		t.Fatal(err)
	}
}

// A crash while formatting, and a fresh ext4's lost+found, must not need a person.
func TestFormatAfterCrash(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"lost+found", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "1"), []byte("eggsfs-di"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := open(t, Options{Path: dir})
	if names, err := f.Names("tmp"); err != nil || len(names) != 0 {
		t.Fatal(names, err)
	}
}

// Files that a crash left half-written are removed at the next start.
func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	f := open(t, Options{Path: dir})
	tmp, err := f.Temp()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tmp.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	f.Close()
	f = open(t, Options{Path: dir})
	if names, err := f.Names("tmp"); err != nil || len(names) != 0 {
		t.Fatal(names, err)
	}
}

// A file appears whole, replaces whole, and a failure at any step leaves what was there.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	var fail atomic.Value
	fail.Store("")
	f := open(t, Options{Path: dir, Fault: func(op, name string) error {
		if op == fail.Load() {
			return unix.EIO
		}
		return nil
	}})
	if err := f.WriteFile("x", []byte("one")); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"write", "sync", "rename"} {
		fail.Store(op)
		err := f.WriteFile("x", []byte("two"))
		if !errors.Is(err, eggs.IO) || !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v", op, err)
		}
		fail.Store("")
		if b, err := f.ReadFile("x", 10); string(b) != "one" || err != nil {
			t.Errorf("after a failed %s: %q %v", op, b, err)
		}
	}
	if names, _ := f.Names("tmp"); len(names) != 0 {
		t.Error("left over:", names)
	}
	if err := f.WriteFile("x", []byte("two")); err != nil {
		t.Fatal(err)
	}
	if b, _ := f.ReadFile("x", 3); string(b) != "two" {
		t.Fatalf("%q", b)
	}
	if _, err := f.ReadFile("x", 2); !errors.Is(err, eggs.TooLarge) {
		t.Fatal(err)
	}
	if err := f.Remove("x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove("x"); !errors.Is(err, eggs.NotExist) {
		t.Fatal(err)
	}
}

// Rename says whether it replaced something: the owner counts its files by it.
func TestRenameTellsReplaced(t *testing.T) {
	f := open(t, Options{Path: t.TempDir()})
	for i, want := range []bool{false, true} {
		tmp, err := f.Temp()
		if err != nil {
			t.Fatal(err)
		}
		if replaced, err := tmp.Rename("n"); err != nil || replaced != want {
			t.Fatalf("%d: replaced %v, %v", i, replaced, err)
		}
	}
}

// What happens to a disk while it is served must be noticed, and must not be
// written over: pulled, emptied, or swapped for another.
func TestCheckSeesSwaps(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(dir string) error
	}{
		{"moved away", func(dir string) error { return os.Rename(dir, dir+".old") }},
		{"emptied", func(dir string) error { return os.Remove(filepath.Join(dir, "identity")) }},
		{"swapped for an empty folder", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755))
		}},
		{"swapped for another disk", func(dir string) error {
			f, err := Open(Options{Path: dir + ".new"})
			if err != nil {
				return err
			}
			f.Close()
			return errors.Join(os.Rename(dir, dir+".old"), os.Rename(dir+".new", dir))
		}},
		{"identity exchanged", func(dir string) error {
			id := Identity{Disk: 12345, Made: time.Now()}
			return os.WriteFile(filepath.Join(dir, "identity"), id.text(), 0o644)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "disk")
			f := open(t, Options{Path: dir})
			if err := f.Check(); err != nil {
				t.Fatal(err)
			}
			if err := c.do(dir); err != nil {
				t.Fatal(err)
			}
			if err := f.Check(); err == nil {
				t.Fatal("not noticed")
			}
			if err := f.WriteFile("y", nil); err == nil {
				if _, err := os.Stat(filepath.Join(dir, "y")); err == nil && strings.HasPrefix(c.name, "swapped") {
					t.Fatal("written to the other disk")
				}
			}
		})
	}
}

// Those who sync one directory at a time share syncs, but nobody is served by a sync
// that began before they asked.
func TestSyncDirShares(t *testing.T) {
	var syncs, began atomic.Int64
	gate := make(chan struct{})
	f := open(t, Options{Path: t.TempDir(), Fault: func(op, name string) error {
		if op == "sync" && name == "d" {
			began.Add(1)
			<-gate
			syncs.Add(1)
		}
		return nil
	}})
	if err := f.Mkdir("d"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ask := func() {
		wg.Go(func() {
			if err := f.SyncDir("d"); err != nil {
				t.Error(err)
			}
		})
	}
	ask()
	for began.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	for range 20 {
		ask() // all of these come while the first is going on
	}
	time.Sleep(20 * time.Millisecond)
	close(gate)
	wg.Wait()
	if n := syncs.Load(); n < 2 || n > 3 {
		t.Fatalf("%d syncs for 1 + 20", n)
	}
}

// Room is what an ordinary user could use, and never more than there is.
func TestSpace(t *testing.T) {
	f := open(t, Options{Path: t.TempDir()})
	s, err := f.Space()
	if err != nil || s.Free == 0 || s.Free > s.Capacity {
		t.Fatalf("%+v %v", s, err)
	}
	if e := wrap("op", "n", unix.ENOSPC); !errors.Is(e, eggs.NoSpace) {
		t.Fatal(e)
	}
	tmp, err := f.Temp()
	if err != nil {
		t.Fatal(err)
	}
	defer tmp.Discard()
	if err := tmp.Reserve(1 << 60); err == nil {
		t.Fatal("an exabyte was reserved")
	}
	if err := tmp.Reserve(1 << 20); err != nil {
		t.Fatal(err)
	}
}

// Writing past the page cache is a matter of speed only: what a file system does not take that
// way is written the ordinary way, and the bytes are the same.
func TestDirect(t *testing.T) {
	f := open(t, Options{Path: t.TempDir()})
	tmp, err := f.Temp()
	if err != nil {
		t.Fatal(err)
	}
	tmp.Direct(true)
	data := []byte(strings.Repeat("0123456789abcdef", 512))
	for _, part := range [][]byte{data, data[:100], data} { // the second is no whole page
		if n, err := tmp.Write(part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := tmp.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := tmp.Rename("x"); err != nil {
		t.Fatal(err)
	}
	b, err := f.ReadFile("x", 1<<20)
	if err != nil || string(b) != string(data)+string(data[:100])+string(data) {
		t.Fatal(len(b), err)
	}
}
