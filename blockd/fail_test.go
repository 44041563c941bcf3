package blockd

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"eggsfs/eggs"
)

// faults makes the disk whose Path ends in name fail on demand.
type faults struct {
	mu  sync.Mutex
	op  string
	in  string // part of the file's name
	err error
}

func (f *faults) set(op, in string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.in, f.err = op, in, err
}

func (f *faults) check(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if op == f.op && strings.Contains(name, f.in) {
		return f.err
	}
	return nil
}

// A disk with an input/output error takes no more writes, says so in words, and what
// can be read of it is read; the others serve; a restart looks anew.
func TestIOErrors(t *testing.T) {
	for _, c := range []struct{ name, op, in string }{
		{"writing data", "write", "tmp"},
		{"syncing data", "sync", "tmp"},
		{"giving a name", "rename", ""},
		{"syncing a directory", "sync", "blocks"},
		{"making a file", "open", "tmp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f faults
			var events atomic.Int32
			r := newRig(t, 2, func(cf *Config) {
				cf.Disks[0].fault = f.check
				cf.Event = func(level, text string) { events.Add(1) }
			})
			p := r.dial()
			bad, good := r.disk(0).id, r.disk(1).id
			data := pattern(1, 20*pageSize)
			must(t, p.put(bad, 1, data))
			f.set(c.op, c.in, unix.EIO)
			err := p.put(bad, 2, data)
			wantKind(t, err, eggs.BadDisk)
			var e *eggs.Error
			if !errors.As(err, &e) || len(e.Disks) != 1 || e.Disks[0] != bad {
				t.Fatal("the error does not name the disk:", err)
			}
			f.set("", "", nil)
			wantKind(t, p.put(bad, 3, data), eggs.BadDisk) // it does not come back by itself
			st := r.status(0)
			if st.Writable || !strings.Contains(st.Error, "input/output error") || events.Load() == 0 {
				t.Fatal(st)
			}
			must(t, p.put(good, 2, data))
			got, _, err := p.get(bad, 1, uint32(len(data)), 0, uint32(len(data)))
			must(t, err)
			if !bytes.Equal(got, data) {
				t.Fatal("other bytes")
			}
			r.restart()
			must(t, r.dial().put(bad, 2, data))
		})
	}
}

// The journal is the disk's memory of erasures: when it cannot be synced nothing
// is proved, and the disk takes no more writes.
func TestJournalErrors(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		var f faults
		r := newRig(t, 1, func(c *Config) { c.Disks[0].fault = f.check })
		p := r.dial()
		d := r.disk(0).id
		f.set(op, journalName, unix.EIO)
		wantKind(t, p.erase(d, 5, 0), eggs.BadDisk)
		f.set("", "", nil)
		wantKind(t, p.erase(d, 5, 0), eggs.BadDisk)
		wantKind(t, p.put(d, 6, pattern(6, pageSize)), eggs.BadDisk)
		r.restart()
		must(t, r.dial().erase(d, 5, 0))

		f.set("write", journalName, unix.ENOSPC) // full is not broken
		wantKind(t, r.dial().erase(d, 7, 0), eggs.NoSpace)
		f.set("", "", nil)
		must(t, r.dial().erase(d, 7, 0))
		if st := r.status(0); !st.Writable {
			t.Fatal(st)
		}
	}
}

// What cannot be read is an error of that block for its reader, who has others to read
// from, and running out of descriptors is nobody's disk's fault.
func TestReadErrors(t *testing.T) {
	var f faults
	r := newRig(t, 1, func(c *Config) { c.Disks[0].fault = f.check })
	p := r.dial()
	d := r.disk(0).id
	must(t, p.put(d, 1, pattern(1, pageSize)))
	f.set("open", "blocks/", unix.EMFILE)
	_, _, err := p.get(d, 1, pageSize, 0, 1)
	wantKind(t, err, eggs.Busy)
	f.set("open", "tmp/", unix.EMFILE)
	wantKind(t, p.put(d, 2, pattern(2, pageSize)), eggs.Busy)
	if st := r.status(0); !st.Writable {
		t.Fatal(st)
	}
	f.set("read", "blocks/", unix.EIO)
	_, _, err = p.get(d, 1, pageSize, 0, 1)
	wantKind(t, err, eggs.BadDisk)
	f.set("", "", nil)
	_, _, err = p.get(d, 1, pageSize, 0, 1)
	must(t, err)
	if st := r.status(0); st.Writable || st.Error == "" {
		t.Fatal(st)
	}
}

// A disk that is pulled, emptied or swapped while it is served is noticed
// without being used, and nothing is written to what is there instead.
func TestDiskVanishes(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(dir string) error
	}{
		{"pulled", func(dir string) error { return os.Rename(dir, dir+".old") }},
		{"emptied", os.RemoveAll},
		{"swapped", func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o755))
		}},
	} {
		for _, use := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				r := newRig(t, 2, func(cf *Config) {
					if cf.Look = 5 * time.Millisecond; use {
						cf.Look = time.Hour
					}
				})
				p := r.dial()
				d, dir := r.disk(0).id, r.config.Disks[0].Path
				must(t, p.put(d, 1, pattern(1, pageSize)))
				must(t, c.do(dir))
				if use && c.name == "emptied" {
					_, _, err := p.get(d, 1, pageSize, 0, 1)
					wantKind(t, err, eggs.BadDisk)
				} else if use {
					return // its files are still reached through the open folder
				}
				wait(t, "noticed", func() bool { return r.status(0).Error != "" })
				wantKind(t, p.put(d, 2, pattern(2, pageSize)), eggs.BadDisk)
				must(t, p.put(r.disk(1).id, 2, pattern(2, pageSize)))
				if names, _ := os.ReadDir(dir); len(names) != 0 {
					t.Fatal("something was written", names)
				}
				r.restart() // still not the disk that is wanted
				st := r.status(0)
				if st.Error == "" || st.Writable || st.Id != uint64(d) || st.Free != 0 {
					t.Fatal(st)
				}
				must(t, r.dial().put(r.disk(1).id, 3, pattern(3, pageSize)))
			})
		}
	}
}

// A disk that hangs, neither working nor failing, must be shown, must not hang the others or
// those who ask, and must not keep the node from stopping.
func TestDiskHangs(t *testing.T) {
	hang, blocked := make(chan struct{}), atomic.Bool{}
	r := newRig(t, 2, func(c *Config) {
		// The stall is long enough for both writes to arrive before the disk is given up.
		c.MaxConns, c.Stall, c.Look = 4, time.Second, 10*time.Millisecond
		c.Disks[0].fault = func(op, name string) error {
			if blocked.Load() {
				<-hang
			}
			return nil
		}
	})
	defer close(hang)
	bad, good := r.disk(0).id, r.disk(1).id
	data := pattern(1, pageSize)
	must(t, r.dial().put(bad, 1, data))
	blocked.Store(true)
	for range 2 { // half of the connections
		p := r.dial()
		c := certFor(bad, 2, data)
		must(t, p.send(putRequest(onWire(c, r.keys.WriteMAC(c))), sumsOf(data), data))
	}
	wait(t, "both hang", func() bool { return r.server.Stats()[0].Busy == 2 })
	p := r.dial()
	wantKind(t, p.put(bad, 3, data), eggs.Busy)
	must(t, p.put(good, 3, data))
	wait(t, "shown", func() bool {
		st := r.status(0)
		return !st.Writable && strings.Contains(st.Error, "not answered")
	})
	if st := r.status(1); !st.Writable {
		t.Fatal(st)
	}
	st := r.server.Stats()[1]
	if st.Puts != 1 || st.BytesIn != pageSize || st.Busy != 0 {
		t.Fatalf("%+v", st)
	}
	began := time.Now()
	r.server.Close()
	if d := time.Since(began); d > 10*time.Second { // the writes hang for ever
		t.Fatal("closing took", d)
	}
}

// A disk that hangs is given no blocks after seconds, long before it counts as failed, which takes half a minute.
func TestQuietDiskIsNotWritten(t *testing.T) {
	hang, blocked := make(chan struct{}), atomic.Bool{}
	r := newRig(t, 1, func(c *Config) {
		c.Disks[0].fault = func(op, name string) error {
			if blocked.Load() {
				<-hang
			}
			return nil
		}
	})
	defer close(hang)
	data := pattern(1, pageSize)
	must(t, r.dial().put(r.disk(0).id, 1, data))
	if st := r.status(0); !st.Writable {
		t.Fatal(st)
	}
	blocked.Store(true)
	began := time.Now()
	wait(t, "not writable", func() bool { return !r.status(0).Writable })
	if st := r.status(0); time.Since(began) > 8*time.Second || st.Error != "" {
		t.Fatalf("after %s: %v", time.Since(began), st)
	}
}

// Two folders with one identity: one is a copy, and serving both would lose blocks of either.
func TestCopiedDisk(t *testing.T) {
	r := newRig(t, 1)
	r.stop()
	dir := r.config.Disks[0].Path
	must(t, os.CopyFS(dir+".copy", os.DirFS(dir)))
	r.config.Disks = append(r.config.Disks, DiskConfig{Path: dir + ".copy"})
	r.start()
	a, b := r.status(0), r.status(1)
	if !a.Writable || b.Writable || !strings.Contains(b.Error, "copy") {
		t.Fatal(a, b)
	}
}

func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("eggs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getuid() != 0 {
			t.Skip("only root mounts")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A full disk refuses puts at the reserve and is no dead disk: it reads, it
// erases, and then it takes puts again.
func TestDiskFull(t *testing.T) {
	dir := tmpfs(t, "12m")
	const reserve = 4 << 20
	r := newRig(t, 0, func(c *Config) {
		c.Reserve = reserve
		c.Disks = []DiskConfig{{Path: filepath.Join(dir, "a")}, {Path: filepath.Join(dir, "b")}}
	})
	p := r.dial()
	d := r.disk(0).id
	data := pattern(1, 1<<20)
	n := eggs.BlockID(0)
	var err error
	for ; err == nil; n++ {
		err = p.put(r.disk(int(n)%2).id, n+1, data)
	}
	wantKind(t, err, eggs.NoSpace)
	if n < 6 || n > 9 {
		t.Fatalf("full after %d MiB of 8", n)
	}
	space, err := r.disk(0).folder.Space()
	must(t, err)
	if space.Free < reserve {
		t.Fatalf("%d bytes are left", space.Free)
	}
	// Whoever else lives on the file system may eat the reserve: erasing must work even then.
	must(t, os.WriteFile(filepath.Join(dir, "log"), make([]byte, space.Free-pageSize), 0o644))
	hog, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	for err == nil {
		_, err = hog.Write(make([]byte, pageSize))
	}
	hog.Close()
	for _, st := range r.server.Disks() {
		if !st.Writable || st.Error != "" || st.Free != 0 {
			t.Fatal(st)
		}
	}
	_, _, err = p.get(d, 1, 1<<20, 0, 1<<20)
	must(t, err)
	must(t, p.erase(d, 1, 0))
	must(t, p.erase(d, 3, 0))
	must(t, os.Remove(filepath.Join(dir, "log")))
	must(t, p.put(d, 101, data))
	r.restart()
	_, _, err = r.dial().get(d, 101, 1<<20, 0, 1<<20)
	must(t, err)
}

// The file system itself says it is full in the middle of a put, as it may when others fill it: NoSpace,
// nothing kept, and the connection and the disk go on.
func TestFullInTheMiddle(t *testing.T) {
	var f faults
	r := newRig(t, 1, func(c *Config) { c.Disks[0].fault = f.check })
	p := r.dial()
	d := r.disk(0).id
	data := pattern(1, 3*transferBytes)
	for _, op := range []string{"write", "sync"} {
		f.set(op, "tmp", unix.ENOSPC)
		wantKind(t, p.put(d, 1, data), eggs.NoSpace)
	}
	f.set("", "", nil)
	must(t, p.put(d, 1, data))
	if names, _ := r.disk(0).folder.Names("tmp"); len(names) != 0 {
		t.Fatal(names)
	}
}

// Folders that share a file system share its room: the sum over the disks is
// what there is, or placement and statfs would believe in ten times as much.
func TestSharedSpace(t *testing.T) {
	dir := tmpfs(t, "64m")
	r := newRig(t, 2, func(c *Config) {
		c.Reserve = 8 << 20
		for _, n := range []string{"a", "b", "c"} {
			c.Disks = append(c.Disks, DiskConfig{Path: filepath.Join(dir, n)})
		}
	})
	sum := func(from, to int) (capacity, free uint64) {
		for _, st := range r.server.Disks()[from:to] {
			capacity, free = capacity+st.Capacity, free+st.Free
		}
		return
	}
	check := func() {
		t.Helper()
		capacity, free := sum(2, 5)
		if capacity > 64<<20 || capacity < 63<<20 || free > 56<<20 || free < 50<<20 {
			t.Fatalf("capacity %d, free %d", capacity, free)
		}
	}
	check()
	space, err := r.disk(0).folder.Space()
	must(t, err)
	if capacity, _ := sum(0, 2); capacity > space.Capacity || capacity < space.Capacity-2 {
		t.Fatal(capacity, space.Capacity)
	}
	r.disk(4).setGone(eggs.E("", eggs.IO, "pulled")) // its share goes to the others
	check()
	if r.status(4).Capacity != 0 {
		t.Fatal(r.status(4))
	}
}

// Many connections at once on several disks, with puts, reads and erases mixed: no
// wrong byte, nothing lost, nothing left.
func TestConcurrency(t *testing.T) {
	r := newRig(t, 3)
	var wg sync.WaitGroup
	for w := range uint64(8) {
		wg.Go(func() {
			p := r.dial()
			for i := range uint64(12) {
				d := r.disk(int(i+w) % 3).id
				id := eggs.MakeBlockID(eggs.ShardID(i%3), 1+w*1000+i)
				data := pattern(id, int(1+i*13%70)*pageSize)
				if err := p.put(d, id, data); err != nil {
					t.Error(err)
					return
				}
				got, _, err := p.get(d, id, uint32(len(data)), 0, uint32(len(data)))
				if err != nil || !bytes.Equal(got, data) {
					t.Error("other bytes", err)
				}
				if i%2 == 0 {
					if err := p.erase(d, id, 0); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	total := uint64(0)
	for _, st := range r.server.Disks() {
		total += st.Blocks
	}
	if total != 8*6 {
		t.Fatalf("%d blocks", total)
	}
}

// The process is killed in the middle of puts and erases: whatever was proved is there, whole, or
// gone, and nothing half-written is left.
func TestKill(t *testing.T) {
	if os.Getenv("BLOCKD_CHILD") != "" {
		child(t)
		return
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	for round := range 4 {
		cmd := exec.Command(exe, "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "BLOCKD_CHILD="+dir, "TMPDIR="+t.TempDir())
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var proved bytes.Buffer
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			proved.WriteString(lines.Text() + "\n")
			if n == 15+7*round {
				must(t, cmd.Process.Kill()) // what it printed before that comes yet
			}
		}
		cmd.Wait()
		r := newRig(t, 0, func(c *Config) { c.Disks = []DiskConfig{{Path: dir}} })
		p := r.dial()
		there := map[eggs.BlockID]bool{}
		for l := range strings.Lines(proved.String()) {
			l = strings.TrimSpace(l)
			var id uint64
			if op, hex, ok := strings.Cut(l, " "); ok && len(hex) == 16 {
				for _, h := range hex {
					id = id<<4 | uint64(strings.IndexRune("0123456789abcdef", h))
				}
				there[eggs.BlockID(id)] = op == "put"
				if op == "erasing" { // perhaps it is, perhaps it is not
					delete(there, eggs.BlockID(id))
				}
			}
		}
		if len(there) < 5 {
			t.Fatalf("the child did only %d things:\n%s", len(there), proved.String())
		}
		for id, put := range there {
			got, _, err := p.get(r.disk(0).id, id, 8*pageSize, 0, 8*pageSize)
			if put && (err != nil || !bytes.Equal(got, pattern(id, 8*pageSize))) {
				t.Fatalf("block %s was proved: %v", id, err)
			}
			if !put && !errors.Is(err, eggs.NotExist) {
				t.Fatalf("block %s was erased: %v", id, err)
			}
		}
		infos, err := r.secure().list(r.disk(0).id, 0)
		must(t, err)
		for _, b := range infos {
			must(t, p.check(r.disk(0).id, eggs.BlockID(b.Id), b.Size, 0))
		}
		if names, _ := r.disk(0).folder.Names("tmp"); len(names) != 0 {
			t.Fatal(names)
		}
		r.stop()
	}
}

// child puts and erases for ever, and prints what was proved.
func child(t *testing.T) {
	r := newRig(t, 0, func(c *Config) { c.Disks = []DiskConfig{{Path: os.Getenv("BLOCKD_CHILD")}} })
	base := uint64(time.Now().UnixNano()) >> 20
	for w := range uint64(4) {
		go func() {
			p := r.dial()
			for n := uint64(1); ; n++ {
				id := eggs.MakeBlockID(eggs.ShardID(n%5), base<<16+w<<12+n)
				if err := p.put(r.disk(0).id, id, pattern(id, 8*pageSize)); err != nil {
					os.Stdout.WriteString("failed " + err.Error() + "\n")
					return
				}
				os.Stdout.WriteString("put " + id.String() + "\n")
				if n%3 == 0 {
					os.Stdout.WriteString("erasing " + id.String() + "\n")
					if err := p.erase(r.disk(0).id, id, 0); err != nil {
						return
					}
					os.Stdout.WriteString("erased " + id.String() + "\n")
				}
			}
		}()
	}
	time.Sleep(time.Minute)
}
