package raftshard

import (
	"sort"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// arena hands out zero values from blocks, for answers of thousands of items.
type arena[T any] struct {
	free []T
	size int
}

func newArena[T any](n int) *arena[T] { return &arena[T]{size: min(n, 512)} }

func (a *arena[T]) next() *T {
	if len(a.free) == 0 {
		a.free = make([]T, a.size)
	}
	p := &a.free[0]
	a.free = a.free[1:]
	return p
}

// attrOf returns the attributes of one inode, or nil.
func attrOf(r raftgroup.Reader, id eggs.InodeID) *wire.Attr {
	if id.IsDir() {
		d, ok := load[DirectoryRecord](r, key1(tableDirectory, id))
		if !ok {
			return nil
		}
		return dirAttr(id, d)
	}
	at := &wire.Attr{}
	if v, ok := r.Get(key1(tableFile, id)); ok && fileAttr(at, id, v) {
		return at
	}
	t, ok := load[TransientRecord](r, key1(tableTransient, id))
	if !ok || t.File == nil {
		return nil
	}
	fillFile(at, id, t.File)
	at.Transient = true
	return at
}

// scanAhead is how many records a walk over files passes by to get to the next
// wanted one before a look-up of its own would have been cheaper.
const scanAhead = 8

// attrsOf returns the attributes of many inodes, nil for those that are not
// here. The files of a directory are mostly made together, so their ids are close
// to each other: one walk in the order of ids is cheaper than a look-up for each.
func attrsOf(r raftgroup.Reader, ids []eggs.InodeID) []*wire.Attr {
	attrs := make([]*wire.Attr, len(ids))
	var order []int
	for i, id := range ids {
		if id.Kind() == eggs.KindFile || id.Kind() == eggs.KindSymlink {
			order = append(order, i)
		} else if id.IsDir() {
			attrs[i] = attrOf(r, id)
		}
	}
	sort.Slice(order, func(i, j int) bool { return ids[order[i]] < ids[order[j]] })
	w := walk{r: r, ids: ids, order: order, attrs: attrs, arena: newArena[wire.Attr](len(order))}
	for w.at < len(w.order) {
		w.run()
	}
	for _, i := range order {
		if attrs[i] == nil {
			attrs[i] = attrOf(r, ids[i]) // transient, or gone
		}
	}
	return attrs
}

// walk reads file records in the order of their ids.
type walk struct {
	r     raftgroup.Reader
	ids   []eggs.InodeID
	order []int // into ids, by increasing id
	at    int   // into order: the next wanted
	attrs []*wire.Attr
	arena *arena[wire.Attr]
}

// run walks from the next wanted id until the wanted ones get too rare.
func (w *walk) run() {
	passed := 0
	w.r.Scan(key1(tableFile, w.ids[w.order[w.at]]), []byte{tableFile + 1}, false,
		func(k, v []byte) bool {
			id := eggs.InodeID(u64(k[1:]))
			for w.at < len(w.order) && w.ids[w.order[w.at]] < id {
				w.at++ // not a linked file
			}
			found := false
			for w.at < len(w.order) && w.ids[w.order[w.at]] == id {
				if at := w.arena.next(); fileAttr(at, id, v) {
					w.attrs[w.order[w.at]] = at
				}
				w.at++
				found = true
			}
			if found {
				passed = 0
			} else {
				passed++
			}
			return w.at < len(w.order) && passed < scanAhead
		})
	if passed < scanAhead && w.at < len(w.order) {
		w.at = len(w.order) // the table ended
	}
}

func fileAttr(at *wire.Attr, id eggs.InodeID, v []byte) bool {
	var f FileRecord
	if f.UnmarshalVT(v) != nil {
		return false
	}
	fillFile(at, id, &f)
	return true
}

func fillFile(at *wire.Attr, id eggs.InodeID, f *FileRecord) {
	at.Id, at.Mode, at.Uid, at.Gid, at.Size = uint64(id), f.Mode, f.Uid, f.Gid, f.Size
	at.Mtime, at.Atime, at.Ctime = f.Mtime, f.Atime, f.Ctime
	at.Symlink, at.Xattrs = f.Symlink, xattrMap(f.Xattrs)
}

func dirAttr(id eggs.InodeID, d *DirectoryRecord) *wire.Attr {
	at := &wire.Attr{
		Id: uint64(id), Mode: d.Mode, Uid: d.Uid, Gid: d.Gid,
		Mtime: d.Mtime, Atime: d.Atime, Ctime: d.Ctime,
		Owner: d.Owner, Xattrs: xattrMap(d.Xattrs), Removed: removed(id, d),
	}
	if len(d.Policies) > 0 {
		at.Policies = &wire.Policies{}
		if at.Policies.UnmarshalVT(d.Policies) != nil {
			at.Policies = nil
		}
	}
	return at
}

func xattrMap(all []*Xattr) map[string][]byte {
	if len(all) == 0 {
		return nil
	}
	m := make(map[string][]byte, len(all))
	for _, x := range all {
		m[x.Name] = x.Value
	}
	return m
}
