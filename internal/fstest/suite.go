package fstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// Room is what one contract of the Suite works with: a directory of its own, and a
// second user of the same file system.
type Room struct {
	client.API
	Other client.API
	Dir   eggs.InodeID
	Ctx   context.Context
}

// Contract is one promise of client.API, and the test of it.
type Contract struct {
	Says string
	Test func(t *testing.T, r *Room)
}

// Suite runs every contract. a and b are two users of one file system; they may be the same.
func Suite(t *testing.T, a, b client.API) {
	stamp := time.Now().UnixNano()
	for i, c := range Contracts {
		t.Run(c.Says, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			d, err := a.Mkdir(ctx, eggs.Root, fmt.Sprintf("suite-%d-%d", stamp, i), client.CreateOptions{Mode: 0o755})
			if err != nil {
				t.Fatal(err)
			}
			c.Test(t, &Room{a, b, d.ID, ctx})
		})
	}
}

func want(t *testing.T, err error, k eggs.Kind) {
	t.Helper()
	if k == eggs.Other && err != nil || k != eggs.Other && !errors.Is(err, k) {
		t.Fatalf("got %v, want kind %q", err, k)
	}
}

// Put writes a whole file.
func (r *Room) Put(t *testing.T, dir eggs.InodeID, name string, data []byte) eggs.InodeID {
	t.Helper()
	w, err := r.Create(r.Ctx, dir, name, client.CreateOptions{Mode: 0o644})
	want(t, err, eggs.Other)
	_, err = w.Write(data)
	want(t, err, eggs.Other)
	_, err = w.Close(r.Ctx)
	want(t, err, eggs.Other)
	return w.ID()
}

// Get reads a whole file by its name, as the other user.
func (r *Room) Get(t *testing.T, dir eggs.InodeID, name string) []byte {
	t.Helper()
	e, err := r.Other.Lookup(r.Ctx, dir, name)
	want(t, err, eggs.Other)
	return r.Read(t, e.Target)
}

// Read reads a whole file by its id, as the other user.
func (r *Room) Read(t *testing.T, id eggs.InodeID) []byte {
	t.Helper()
	f, err := r.Other.Open(r.Ctx, id)
	want(t, err, eggs.Other)
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	want(t, err, eggs.Other)
	return data
}

// Pattern returns n bytes that differ with seed and position.
func Pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

// Contracts are the promises of client.API.
var Contracts = []Contract{
	{"a file is invisible until Close, then whole", func(t *testing.T, r *Room) {
		for i, size := range []int{0, 1, 1000, 100_000, 3 << 20} {
			name, data := fmt.Sprint("f", i), Pattern(size, byte(i))
			w, err := r.Create(r.Ctx, r.Dir, name, client.CreateOptions{Mode: 0o640, UID: 3, GID: 4})
			want(t, err, eggs.Other)
			for off := 0; off < size; off += 70_000 {
				_, err := w.Write(data[off:min(off+70_000, size)])
				want(t, err, eggs.Other)
			}
			_, err = r.Other.Lookup(r.Ctx, r.Dir, name)
			want(t, err, eggs.NotExist)
			back := make([]byte, size)
			if n, _ := w.ReadAt(back, 0); n != size || !bytes.Equal(back, data) {
				t.Fatalf("read back %d bytes of %d, or other ones", n, size)
			}
			_, err = w.Close(r.Ctx)
			want(t, err, eggs.Other)
			e, err := r.Other.Lookup(r.Ctx, r.Dir, name)
			want(t, err, eggs.Other)
			a := e.Attr
			if a == nil || e.Target != w.ID() || a.ID != w.ID() || a.Size != int64(size) || a.Mode != 0o640 ||
				a.UID != 3 || a.GID != 4 || e.Cursor != eggs.NameHash(name) {
				t.Fatalf("looked up %+v with %+v", e, a)
			}
			if !bytes.Equal(r.Get(t, r.Dir, name), data) {
				t.Fatalf("%s reads differently", name)
			}
		}
	}},
	{"an aborted file leaves no name", func(t *testing.T, r *Room) {
		w, err := r.Create(r.Ctx, r.Dir, "gone", client.CreateOptions{Mode: 0o600})
		want(t, err, eggs.Other)
		_, err = w.Write([]byte("x"))
		want(t, err, eggs.Other)
		w.Abort()
		_, err = r.Other.Lookup(r.Ctx, r.Dir, "gone")
		want(t, err, eggs.NotExist)
	}},
	{"a later Close replaces, and the old content stays readable by its id", func(t *testing.T, r *Room) {
		first := r.Put(t, r.Dir, "f", []byte("one"))
		second := r.Put(t, r.Dir, "f", []byte("two"))
		if got := r.Get(t, r.Dir, "f"); string(got) != "two" {
			t.Fatalf("reads %q", got)
		}
		if got := r.Read(t, first); first == second || string(got) != "one" {
			t.Fatalf("the old one reads %q", got)
		}
	}},
	{"an exclusive create is decided at once", func(t *testing.T, r *Room) {
		o := client.CreateOptions{Mode: 0o600, Exclusive: true}
		w, err := r.Create(r.Ctx, r.Dir, "lock", o)
		want(t, err, eggs.Other)
		if r.Other != r.API {
			_, err = r.Other.Create(r.Ctx, r.Dir, "lock", o)
			want(t, err, eggs.Exist)
		}
		_, err = r.Other.Lookup(r.Ctx, r.Dir, "lock")
		want(t, err, eggs.NotExist)
		_, err = w.Close(r.Ctx)
		want(t, err, eggs.Other)
		_, err = r.Other.Create(r.Ctx, r.Dir, "lock", o)
		want(t, err, eggs.Exist)
		want(t, r.Unlink(r.Ctx, r.Dir, "lock", 0), eggs.Other)
		w, err = r.Other.Create(r.Ctx, r.Dir, "lock", o)
		want(t, err, eggs.Other)
		w.Abort()
	}},
	{"the name can change before Close", func(t *testing.T, r *Room) {
		w, err := r.Create(r.Ctx, r.Dir, "a", client.CreateOptions{Mode: 0o600})
		want(t, err, eggs.Other)
		_, err = w.Write([]byte("x"))
		want(t, err, eggs.Other)
		w.Rename("b")
		mode, mtime := uint32(0o444), eggs.Time(1_000_000_007)
		w.SetAttr(client.SetAttr{Mode: &mode, Mtime: &mtime})
		_, err = w.Close(r.Ctx)
		want(t, err, eggs.Other)
		_, err = r.Other.Lookup(r.Ctx, r.Dir, "a")
		want(t, err, eggs.NotExist)
		e, err := r.Other.Lookup(r.Ctx, r.Dir, "b")
		want(t, err, eggs.Other)
		if e.Attr.Mode != mode || e.Attr.Mtime != mtime {
			t.Fatalf("has %+v", e.Attr)
		}
	}},
	{"names are checked", func(t *testing.T, r *Room) {
		for name, k := range map[string]eggs.Kind{
			"": eggs.Invalid, ".": eggs.Invalid, "..": eggs.Invalid, "a/b": eggs.Invalid, "a\x00": eggs.Invalid,
			strings.Repeat("x", 256): eggs.NameTooLong,
		} {
			_, err := r.Mkdir(r.Ctx, r.Dir, name, client.CreateOptions{Mode: 0o755})
			want(t, err, k)
		}
		long := strings.Repeat("é", 127) + "x"
		r.Put(t, r.Dir, long, nil)
		r.Get(t, r.Dir, long)
	}},
	{"directories: made once, removed when empty", func(t *testing.T, r *Room) {
		o := client.CreateOptions{Mode: 0o2750, UID: 7, GID: 8}
		d, err := r.Mkdir(r.Ctx, r.Dir, "d", o)
		want(t, err, eggs.Other)
		if !d.ID.IsDir() || d.Mode != 0o2750 || d.UID != 7 || d.GID != 8 || d.Owner != r.Dir {
			t.Fatalf("made %+v", d)
		}
		_, err = r.Other.Mkdir(r.Ctx, r.Dir, "d", o)
		want(t, err, eggs.Exist)
		r.Put(t, d.ID, "f", nil)
		want(t, r.Rmdir(r.Ctx, r.Dir, "d"), eggs.NotEmpty)
		want(t, r.Rmdir(r.Ctx, d.ID, "f"), eggs.NotDir)
		want(t, r.Unlink(r.Ctx, r.Dir, "d", 0), eggs.IsDir)
		want(t, r.Unlink(r.Ctx, d.ID, "f", 0), eggs.Other)
		want(t, r.Unlink(r.Ctx, d.ID, "f", 0), eggs.NotExist)
		want(t, r.Rmdir(r.Ctx, r.Dir, "d"), eggs.Other)
		want(t, r.Rmdir(r.Ctx, r.Dir, "d"), eggs.NotExist)
		_, err = r.Mkdir(r.Ctx, d.ID, "late", o)
		if err == nil {
			t.Fatal("made a directory in a removed one")
		}
	}},
	{"rename of files", func(t *testing.T, r *Room) {
		sub, err := r.Mkdir(r.Ctx, r.Dir, "sub", client.CreateOptions{Mode: 0o755})
		want(t, err, eggs.Other)
		r.Put(t, r.Dir, "a", []byte("a"))
		r.Put(t, r.Dir, "b", []byte("b"))
		want(t, r.Rename(r.Ctx, r.Dir, "a", r.Dir, "b", true), eggs.Exist)
		want(t, r.Rename(r.Ctx, r.Dir, "a", r.Dir, "b", false), eggs.Other)
		want(t, r.Rename(r.Ctx, r.Dir, "a", r.Dir, "c", false), eggs.NotExist)
		want(t, r.Rename(r.Ctx, r.Dir, "b", r.Dir, "sub", false), eggs.IsDir)
		want(t, r.Rename(r.Ctx, r.Dir, "b", sub.ID, "z", false), eggs.Other)
		_, err = r.Other.Lookup(r.Ctx, r.Dir, "b")
		want(t, err, eggs.NotExist)
		if got := r.Get(t, sub.ID, "z"); string(got) != "a" {
			t.Fatalf("reads %q", got)
		}
	}},
	{"rename of directories", func(t *testing.T, r *Room) {
		mk := func(dir eggs.InodeID, name string) eggs.InodeID {
			d, err := r.Mkdir(r.Ctx, dir, name, client.CreateOptions{Mode: 0o755})
			want(t, err, eggs.Other)
			return d.ID
		}
		a, b := mk(r.Dir, "a"), mk(r.Dir, "b")
		mk(a, "in")
		want(t, r.Rename(r.Ctx, r.Dir, "a", a, "loop", false), eggs.Loop)
		want(t, r.Rename(r.Ctx, r.Dir, "b", r.Dir, "a", false), eggs.NotEmpty)
		want(t, r.Rename(r.Ctx, r.Dir, "a", b, "a", false), eggs.Other)
		at, err := r.Other.Stat(r.Ctx, a)
		want(t, err, eggs.Other)
		if at.Owner != b {
			t.Fatalf("its owner is %v, not %v", at.Owner, b)
		}
		want(t, r.Rename(r.Ctx, b, "a", r.Dir, "back", false), eggs.Other)
		want(t, r.Rename(r.Ctx, r.Dir, "back", r.Dir, "b", false), eggs.Other)
	}},
	{"symlinks", func(t *testing.T, r *Room) {
		_, err := r.Symlink(r.Ctx, r.Dir, "s", "../to/me", client.CreateOptions{UID: 5})
		want(t, err, eggs.Other)
		e, err := r.Other.Lookup(r.Ctx, r.Dir, "s")
		want(t, err, eggs.Other)
		a, err := r.Other.Stat(r.Ctx, e.Target)
		want(t, err, eggs.Other)
		if a.Symlink != "../to/me" || a.Size != 8 || a.UID != 5 || a.ID.Kind() != eggs.KindSymlink {
			t.Fatalf("is %+v", a)
		}
		_, err = r.Symlink(r.Ctx, r.Dir, "s", "x", client.CreateOptions{})
		want(t, err, eggs.Exist)
		want(t, r.Unlink(r.Ctx, r.Dir, "s", e.Target), eggs.Other)
	}},
	{"attributes and xattrs", func(t *testing.T, r *Room) {
		id := r.Put(t, r.Dir, "f", []byte("x"))
		mode, uid, mtime := uint32(0o4711), uint32(12), eggs.Time(-5_000_000_001)
		_, err := r.SetAttr(r.Ctx, id, client.SetAttr{Mode: &mode, UID: &uid, Mtime: &mtime, AtimeNow: true})
		want(t, err, eggs.Other)
		want(t, r.SetXattr(r.Ctx, id, "user.a", []byte("1"), false, true), eggs.NotExist)
		want(t, r.SetXattr(r.Ctx, id, "user.a", []byte("1"), true, false), eggs.Other)
		want(t, r.SetXattr(r.Ctx, id, "user.a", []byte("2"), true, false), eggs.Exist)
		want(t, r.SetXattr(r.Ctx, id, "user.b", make([]byte, eggs.MaxXattrBytes), false, false), eggs.TooLarge)
		a, err := r.Other.Stat(r.Ctx, id)
		want(t, err, eggs.Other)
		if a.Mode != mode || a.UID != uid || a.Mtime != mtime ||
			string(a.Xattrs["user.a"]) != "1" || len(a.Xattrs) != 1 {
			t.Fatalf("is %+v", a)
		}
		want(t, r.RemoveXattr(r.Ctx, id, "user.a"), eggs.Other)
		want(t, r.RemoveXattr(r.Ctx, id, "user.a"), eggs.NotExist)
	}},
	{"xattrs of a file under construction are there with its name", func(t *testing.T, r *Room) {
		r.Prepare(r.Dir)
		for i, size := range []int{0, 1000, 3 << 20} {
			w, err := r.Create(r.Ctx, r.Dir, fmt.Sprint("f", i), client.CreateOptions{Mode: 0o644})
			want(t, err, eggs.Other)
			w.SetXattrs(map[string][]byte{"user.gone": []byte("0")})
			_, err = w.Write(Pattern(size, 1))
			want(t, err, eggs.Other)
			w.SetXattrs(map[string][]byte{"user.a": []byte("1"), "user.b": nil})
			_, err = w.Close(r.Ctx)
			want(t, err, eggs.Other)
			a, err := r.Other.Stat(r.Ctx, w.ID())
			want(t, err, eggs.Other)
			x, there := a.Xattrs["user.b"]
			if string(a.Xattrs["user.a"]) != "1" || len(x) > 0 || !there || len(a.Xattrs) != 2 {
				t.Fatalf("is %+v", a)
			}
			if w.Attr().Ctime != a.Ctime {
				t.Fatalf("the writer says %v, stat %v", w.Attr().Ctime, a.Ctime)
			}
			want(t, r.RemoveXattr(r.Ctx, w.ID(), "user.a"), eggs.Other)
		}
	}},
	{"directories are listed in pages, in the order of cursors", func(t *testing.T, r *Room) {
		const n = 60
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := i; j < n; j += 4 {
					if j%5 == 0 {
						o := client.CreateOptions{Mode: 0o700}
						if _, err := r.Mkdir(r.Ctx, r.Dir, fmt.Sprint(j), o); err != nil {
							t.Error(err)
						}
						continue
					}
					r.Put(t, r.Dir, fmt.Sprint(j), make([]byte, j))
				}
			})
		}
		wg.Wait()
		seen, after := map[string]bool{}, uint64(0)
		for end := false; !end; {
			var list []client.Entry
			var owner eggs.InodeID
			var err error
			list, owner, end, err = r.Other.ReadDir(r.Ctx, r.Dir, after, 7, true)
			want(t, err, eggs.Other)
			if owner != eggs.Root || len(list) == 0 && !end {
				t.Fatalf("owner %v, %d entries, end %v", owner, len(list), end)
			}
			for _, e := range list {
				if e.Cursor <= after || seen[e.Name] || e.Cursor != eggs.NameHash(e.Name) || e.Attr == nil {
					t.Fatalf("out of order, twice or without attributes: %+v", e)
				}
				if e.Attr.ID != e.Target || e.Target.IsDir() != (e.Attr.Mode == 0o700) {
					t.Fatalf("wrong attributes: %+v %+v", e, e.Attr)
				}
				seen[e.Name], after = true, e.Cursor
			}
		}
		if len(seen) != n {
			t.Fatalf("listed %d of %d", len(seen), n)
		}
	}},
	{"many inodes are asked about at once", func(t *testing.T, r *Room) {
		ids := []eggs.InodeID{r.Dir, r.Put(t, r.Dir, "f", nil), eggs.MakeInodeID(eggs.KindFile, 1<<60), eggs.Root}
		got, err := r.Other.StatMany(r.Ctx, ids)
		want(t, err, eggs.Other)
		if len(got) != 4 || got[0].ID != ids[0] || got[1].ID != ids[1] || got[2].ID != 0 || got[3].ID != ids[3] {
			t.Fatalf("answers %+v", got)
		}
	}},
	{"paths are walked", func(t *testing.T, r *Room) {
		d, err := r.Mkdir(r.Ctx, r.Dir, "d", client.CreateOptions{Mode: 0o755})
		want(t, err, eggs.Other)
		id := r.Put(t, d.ID, "f", nil)
		self, err := r.Stat(r.Ctx, r.Dir)
		want(t, err, eggs.Other)
		list, _, _, err := r.ReadDir(r.Ctx, self.Owner, 0, 1<<20, false)
		want(t, err, eggs.Other)
		for _, e := range list {
			if e.Target == r.Dir {
				a, err := r.Other.Walk(r.Ctx, "/"+e.Name+"/d/f")
				want(t, err, eggs.Other)
				if a.ID != id {
					t.Fatalf("walked to %v", a.ID)
				}
				return
			}
		}
		t.Fatal("the room is not in the root")
	}},
}
