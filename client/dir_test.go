package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
)

var bg = context.Background()

// put makes a file with content.
func put(t testing.TB, c client.API, dir eggs.InodeID, name string, content []byte) eggs.InodeID {
	t.Helper()
	w, err := c.Create(bg, dir, name, client.CreateOptions{Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(bg); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

// get reads a whole file.
func get(t testing.TB, c client.API, id eggs.InodeID) []byte {
	t.Helper()
	b, err := load(c, id)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(c client.API, id eggs.InodeID) ([]byte, error) {
	r, err := c.Open(bg, id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, r.Size())
	_, err = r.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

func mkdir(t testing.TB, c client.API, dir eggs.InodeID, name string) eggs.InodeID {
	t.Helper()
	a, err := c.Mkdir(bg, dir, name, client.CreateOptions{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	return a.ID
}

func wantKind(t testing.TB, err error, k eggs.Kind) {
	t.Helper()
	if eggs.KindOf(err) != k || err == nil {
		t.Fatalf("got %v (%v), want %v", err, eggs.KindOf(err), k)
	}
}

// TestNames walks through every operation on names, each in the state that
// the one before left, because a door relies on all of them together.
func TestNames(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	d := mkdir(t, c, eggs.Root, "d")
	_, err := c.Mkdir(bg, eggs.Root, "d", client.CreateOptions{})
	wantKind(t, err, eggs.Exist)
	id := put(t, c, d, "f", []byte("hello"))
	if got := string(get(t, c, id)); got != "hello" {
		t.Fatalf("read %q", got)
	}
	e, err := c.Lookup(bg, d, "f")
	if err != nil || e.Target != id || e.Attr == nil || e.Attr.Size != 5 || e.Attr.Mode != 0o644 {
		t.Fatalf("lookup: %+v %v", e, err)
	}
	if e, err = c.Lookup(bg, eggs.Root, "d"); err != nil || e.Attr == nil || e.Attr.Owner != eggs.Root {
		t.Fatalf("lookup of a directory: %+v %v", e, err)
	}
	_, err = c.Lookup(bg, d, "none")
	wantKind(t, err, eggs.NotExist)

	if _, err = c.Symlink(bg, eggs.Root, "l", "d", client.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, err := c.Walk(bg, "/l/f"); err != nil || a.ID != id {
		t.Fatalf("walk through a symlink: %+v %v", a, err)
	}
	if a, err := c.Walk(bg, "/l"); err != nil || a.Symlink != "d" {
		t.Fatalf("walk to a symlink: %+v %v", a, err)
	}
	if err := c.Rename(bg, d, "f", d, "g", false); err != nil {
		t.Fatal(err)
	}
	if err := c.Rename(bg, d, "g", eggs.Root, "h", false); err != nil {
		t.Fatal(err)
	}
	if a, err := c.Walk(bg, "/h"); err != nil || a.ID != id {
		t.Fatalf("walk to the moved file: %+v %v", a, err)
	}
	put(t, c, eggs.Root, "old", []byte("old"))
	wantKind(t, c.Rename(bg, eggs.Root, "h", eggs.Root, "old", true), eggs.Exist)
	if err := c.Rename(bg, eggs.Root, "h", eggs.Root, "old", false); err != nil {
		t.Fatal(err)
	}
	mode := uint32(0o600)
	if a, err := c.SetAttr(bg, id, client.SetAttr{Mode: &mode}); err != nil || a.Mode != mode {
		t.Fatalf("%+v %v", a, err)
	}
	if err := c.SetXattr(bg, id, "user.a", []byte("b"), true, false); err != nil {
		t.Fatal(err)
	}
	wantKind(t, c.SetXattr(bg, id, "user.a", nil, true, false), eggs.Exist)
	if a, err := c.Stat(bg, id); err != nil || string(a.Xattrs["user.a"]) != "b" {
		t.Fatalf("%+v %v", a, err)
	}
	if err := c.Unlink(bg, eggs.Root, "old", 0); err != nil {
		t.Fatal(err)
	}
	put(t, c, d, "x", nil)
	wantKind(t, c.Rmdir(bg, eggs.Root, "d"), eggs.NotEmpty)
	if err := c.Unlink(bg, d, "x", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Rmdir(bg, eggs.Root, "d"); err != nil {
		t.Fatal(err)
	}
	_, err = c.Lookup(bg, eggs.Root, "d")
	wantKind(t, err, eggs.NotExist)
}

// TestRenameDirectories: POSIX has a directory take an empty directory's
// place; the shard knows only one step of that.
func TestRenameDirectories(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	a, b := mkdir(t, c, eggs.Root, "a"), mkdir(t, c, eggs.Root, "b")
	put(t, c, eggs.Root, "file", nil)
	wantKind(t, c.Rename(bg, eggs.Root, "a", eggs.Root, "file", false), eggs.NotDir)
	wantKind(t, c.Rename(bg, eggs.Root, "file", eggs.Root, "a", false), eggs.IsDir)
	put(t, c, b, "inside", nil)
	wantKind(t, c.Rename(bg, eggs.Root, "a", eggs.Root, "b", false), eggs.NotEmpty)
	if err := c.Rename(bg, eggs.Root, "b", eggs.Root, "a", false); err != nil {
		t.Fatal(err)
	}
	e, err := c.Lookup(bg, eggs.Root, "a")
	if err != nil || e.Target != b {
		t.Fatalf("%+v %v, want %v", e, err, b)
	}
	_, err = c.Stat(bg, a)
	if err == nil {
		if at, _ := c.Stat(bg, a); !at.Removed {
			t.Fatal("the replaced directory lives")
		}
	}
	sub := mkdir(t, c, eggs.Root, "sub")
	wantKind(t, c.Rename(bg, eggs.Root, "a", sub, "a", false), eggs.CrossDir)
	if err := c.Rename(bg, eggs.Root, "a", eggs.Root, "a", false); err != nil {
		t.Fatal(err)
	}
	wantKind(t, c.Rename(bg, eggs.Root, "none", eggs.Root, "none", false), eggs.NotExist)
}

// TestReadDir: entries whose inodes live in many shards come with attributes,
// and pages join without a gap.
func TestReadDir(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	want := make(map[string]bool)
	for i := range 40 {
		name := fmt.Sprintf("e%02d", i)
		want[name] = true
		if i%2 == 0 {
			mkdir(t, c, eggs.Root, name)
		} else {
			put(t, c, eggs.Root, name, []byte(name))
		}
	}
	var after uint64
	seen := make(map[string]bool)
	for {
		entries, owner, end, err := c.ReadDir(bg, eggs.Root, after, 7, true)
		if err != nil || owner != 0 {
			t.Fatal(owner, err)
		}
		for _, e := range entries {
			if e.Attr == nil || e.Attr.ID != e.Target || seen[e.Name] || e.Cursor <= after {
				t.Fatalf("%+v", e)
			}
			seen[e.Name] = true
		}
		if end {
			break
		}
		after = entries[len(entries)-1].Cursor
	}
	if len(seen) != len(want) {
		t.Fatalf("saw %d of %d", len(seen), len(want))
	}
	ids := []eggs.InodeID{eggs.Root, eggs.MakeInodeID(eggs.KindFile, 999999)}
	attrs, err := c.StatMany(bg, ids)
	if err != nil || attrs[0].ID != eggs.Root || attrs[1].ID != 0 {
		t.Fatal(attrs, err)
	}
}

// TestPolicies: a tag comes from the nearest ancestor that has it.
func TestPolicies(t *testing.T) {
	w := clienttest.New(t, clienttest.Config{})
	c := w.Client()
	a := mkdir(t, c, eggs.Root, "a")
	b := mkdir(t, c, a, "b")
	p, err := c.Policies(bg, b)
	if err != nil {
		t.Fatal(err)
	}
	if d := eggs.DefaultPolicies(3, 6); p.Inline != d.Inline || len(p.Span) != len(d.Span) {
		t.Fatalf("%+v, want %+v", p, d)
	}
	if err := c.SetPolicy(bg, eggs.Root, policies(4, 100, 8192), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.SetPolicy(bg, a, inline(7), 0); err != nil {
		t.Fatal(err)
	}
	p, err = c.Policies(bg, b)
	if err != nil || p.Inline.MaxSize != 7 || p.Stripe.CellSize != 8192 || p.Span[1].Parity.D != 4 {
		t.Fatalf("%+v %v", p, err)
	}
	s, err := c.StatFS(bg)
	if err != nil || s.Expansion != 1.5 || s.Capacity != 6<<40 {
		t.Fatalf("%+v %v", s, err)
	}
}
