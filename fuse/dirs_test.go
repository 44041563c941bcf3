package fuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/internal/fstest"
)

// What is remembered of directories must never hide what this mount changed, in
// whatever order questions and changes overlap.
func TestDirsKeepsNothingOlderThanAChange(t *testing.T) {
	id := eggs.Root
	attr := func(mtime eggs.Time, mode uint32) *client.Attr {
		return &client.Attr{ID: id, Mode: mode, Mtime: mtime, Ctime: mtime}
	}
	expect := func(s *dirs, mtime eggs.Time, known bool) {
		t.Helper()
		a, _, ok := s.get(id)
		if ok != known || ok && (a.Mtime != mtime || a.Ctime != mtime) {
			t.Fatalf("shows %d, known %v; want %d, known %v", a.Mtime, ok, mtime, known)
		}
	}
	var s dirs
	expect(&s, 0, false)
	s.put(s.ask(), attr(5, 0o755), time.Hour)
	expect(&s, 5, true)
	s.touch(id, 7)
	expect(&s, 7, true)

	q := s.ask()
	s.touch(id, 9)
	s.put(q, attr(8, 0o755), 2*time.Hour) // was asked before the change at 9
	expect(&s, 9, true)
	s.put(s.ask(), attr(6, 0o755), 3*time.Hour) // somebody set the time back after it
	expect(&s, 6, true)

	q = s.ask()
	s.forget(id)
	expect(&s, 0, false)
	s.put(q, attr(6, 0o755), 4*time.Hour)
	expect(&s, 0, false)

	q = s.ask()
	s.forget(id)
	for i := range maxDirs + 1 { // the note that says so is dropped
		s.touch(eggs.MakeInodeID(eggs.KindDirectory, uint64(i+100)), 1)
	}
	s.put(q, attr(6, 0o755), 4*time.Hour)
	expect(&s, 0, false)
	s.put(s.ask(), attr(6, 0o755), time.Nanosecond)
	time.Sleep(time.Microsecond)
	expect(&s, 0, false)
}

// A file that is made costs one look-up of its name and its publishing: no question about
// its directory, which the kernel asks for with every file, and no request for attributes
// of its own. At the same time the directory's times must show each change.
func TestRequestsOfACreate(t *testing.T) {
	r := newRoom(t)
	if r.m == nil || os.Getenv("EGGS_TEST_CLUSTER") != "" {
		return // counted in memory
	}
	tool(t, "setfattr", "attr")
	var stats, lookups, closes, others atomic.Int64
	r.mem.SetHook(func(c fstest.Call) error {
		switch c.Op {
		case "Stat":
			stats.Add(1)
		case "Lookup":
			lookups.Add(1)
		case "Close":
			closes.Add(1)
		case "Create", "Closed", "Write", "Policies":
		default:
			others.Add(1)
		}
		return nil
	})
	r.ok(os.Mkdir(r.path("d"), 0o755))
	others.Store(0)
	const n = 50
	last := time.Time{}
	begin := time.Now()
	for i := range n {
		name := r.path(fmt.Sprint("d/f", i))
		f, err := os.Create(name)
		r.ok(err)
		r.ok(syscall.Setxattr(name, "user.k", []byte("v"), 0))
		r.ok(f.Close())
		fi, err := os.Stat(r.path("d"))
		r.ok(err)
		if !fi.ModTime().After(last) {
			t.Fatalf("after %d files the directory's time is %v, was %v", i+1, fi.ModTime(), last)
		}
		last = fi.ModTime()
	}
	expiries := int64(time.Since(begin)/time.Second) + 1 // one question a second for each of / and d
	if s := stats.Load(); s > 2*expiries+2 {
		t.Errorf("%d questions about attributes for %d files", s, n)
	}
	// The name at the open, and again for setxattr's own path; / and d once a second.
	if l := lookups.Load(); l > 2*n+2*expiries+2 {
		t.Errorf("%d look-ups for %d files", l, n)
	}
	if closes.Load() != n || others.Load() != 0 {
		t.Errorf("%d closes and %d other requests for %d files", closes.Load(), others.Load(), n)
	}
	out, err := exec.Command("getfattr", "-n", "user.k", "--only-values", r.o+"/d/f7").Output()
	if err != nil || string(out) != "v" {
		t.Fatalf("the other mount sees the attribute as %q: %v", out, err)
	}
}

// What a mount changes of a directory itself is seen at once, whatever is remembered.
func TestChangesOfDirectoriesAreSeen(t *testing.T) {
	r := newRoom(t)
	tool(t, "setfattr", "attr")
	r.sh(`mkdir d; stat d >/dev/null
		chmod 700 d; [ "$(stat -c %a d)" = 700 ]
		touch -d @1000 d; [ "$(stat -c %Y d)" = 1000 ]
		for make in "touch d/f" "mkdir d/s" "ln -s x d/l" "mv d/f d/g" "rm d/g" "rmdir d/s"; do
			touch -d @1000 d; $make; [ "$(stat -c %Y d)" != 1000 ] || { echo "$make"; exit 1; }
		done
		setfattr -n user.k -v v d; [ "$(getfattr -n user.k --only-values d)" = v ]`)
	if err := os.Remove(r.path("absent")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}
