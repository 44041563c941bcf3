package lossy

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	page   = 4096 // bytes of one undo record
	sector = 512  // bytes that a disk writes whole
)

// inode is a file or a directory. Its tree's mutex guards everything but a file's
// content, which its own does; the tree's is taken first.
type inode struct {
	id    uint64
	dir   bool
	mode  uint32
	refs  int // names now, names on disk, open handles
	links int // names now
	mtime time.Time

	now map[string]*inode // directory: the names that programs see
	old map[string]change // what the disk has of those that changed since the last sync

	noted atomic.Bool // is among dirty

	mu    sync.Mutex
	size  int64            // bytes now
	disk  int64            // bytes on disk
	pages map[int64][]byte // by page number: what the disk has below disk, where it differs
}

// change is what the disk has for a name: nothing when was is nil. A rename's other
// name is in with: it reaches the disk at the same moment.
type change struct {
	was  *inode
	with *place
}

type place struct {
	dir  *inode
	name string
}

// tree is all inodes, and the folder of their contents.
type tree struct {
	mu    sync.Mutex
	store string
	next  uint64
	root  *inode
	dirty map[*inode]bool
}

func newTree(store string) (*tree, error) {
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	t := &tree{store: store, next: 1, dirty: map[*inode]bool{}}
	t.root = t.make(true, 0o755)
	t.root.refs = 1
	return t, nil
}

func (t *tree) make(dir bool, mode uint32) *inode {
	i := &inode{id: t.next, dir: dir, mode: mode & 0o7777, mtime: time.Now()}
	t.next++
	if dir {
		i.now, i.old = map[string]*inode{}, map[string]change{}
	}
	return i
}

func (t *tree) path(i *inode) string { return filepath.Join(t.store, strconv.FormatUint(i.id, 10)) }

// bind makes name in dir lead to i, nil for nothing, and keeps what the disk has.
func (t *tree) bind(dir *inode, name string, i *inode, with *place) {
	was := dir.now[name]
	if c, changed := dir.old[name]; !changed {
		if was != nil {
			was.refs++
		}
		dir.old[name] = change{was, with}
	} else if with != nil {
		c.with = with
		dir.old[name] = c
	}
	t.dirty[dir] = true
	dir.mtime = time.Now()
	if i != nil {
		i.refs, i.links = i.refs+1, i.links+1
		dir.now[name] = i
	} else {
		delete(dir.now, name)
	}
	if was != nil {
		was.links--
		t.unref(was)
	}
}

// unref gives one reference back, and the inode with the last.
func (t *tree) unref(i *inode) {
	if i.refs--; i.refs > 0 {
		return
	}
	delete(t.dirty, i)
	if !i.dir {
		_ = os.Remove(t.path(i))
		return
	}
	for _, c := range i.old {
		if c.was != nil {
			t.unref(c.was)
		}
	}
	for _, child := range i.now {
		child.links--
		t.unref(child)
	}
}

// syncDir puts a directory's names on disk.
func (t *tree) syncDir(dir *inode) {
	for name := range dir.old {
		t.settle(dir, name)
	}
	delete(t.dirty, dir)
}

// settle puts one name on disk, and the other name of its rename.
func (t *tree) settle(dir *inode, name string) {
	c, ok := dir.old[name]
	if !ok {
		return
	}
	delete(dir.old, name)
	if c.was != nil {
		t.unref(c.was)
	}
	if c.with != nil {
		t.settle(c.with.dir, c.with.name)
	}
}

// before keeps what the disk has of the bytes from off to end, which are about to
// change. The caller holds i.mu.
func (i *inode) before(f *os.File, off, end int64) error {
	end = min(end, i.disk)
	for p := off / page; p*page < end; p++ {
		if _, ok := i.pages[p]; ok {
			continue
		}
		b := make([]byte, min(page, i.disk-p*page))
		if k, err := f.ReadAt(b, p*page); k < len(b) && err != nil {
			if p*page+int64(k) < i.size { // a hole at the end reads as nothing
				return err
			}
		}
		if i.pages == nil {
			i.pages = map[int64][]byte{}
		}
		i.pages[p] = b
	}
	return nil
}

// write puts bytes into the file as programs see it.
func (t *tree) write(i *inode, f *os.File, p []byte, off int64, now bool) error {
	t.note(i)
	i.mu.Lock()
	defer i.mu.Unlock()
	end := off + int64(len(p))
	if err := i.before(f, off, end); err != nil {
		return err
	}
	if _, err := f.WriteAt(p, off); err != nil {
		return err
	}
	i.size = max(i.size, end)
	i.mtime = time.Now()
	if now {
		i.settle()
	}
	return nil
}

// resize truncates or extends.
func (t *tree) resize(i *inode, size int64) error {
	f, err := os.OpenFile(t.path(i), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	t.note(i)
	i.mu.Lock()
	defer i.mu.Unlock()
	if size < i.size {
		if err := i.before(f, size, i.size); err != nil {
			return err
		}
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	i.size, i.mtime = size, time.Now()
	return nil
}

// note remembers that the file may not be as on disk, until the next power loss. The
// caller holds neither mutex: attr takes a file's below the tree's.
func (t *tree) note(i *inode) {
	if i.noted.Swap(true) {
		return
	}
	t.mu.Lock()
	t.dirty[i] = true
	t.mu.Unlock()
}

// sync puts a file's bytes on disk.
func (t *tree) sync(i *inode) {
	i.mu.Lock()
	i.settle()
	i.mu.Unlock()
}

func (i *inode) settle() { i.pages, i.disk = nil, i.size }

// powerLoss makes the tree what the disk has. With a chance, each sector that was
// not synced is on disk with that probability, and so is each directory's changes.
func (t *tree) powerLoss(chance float64, rng *rand.Rand) (undone int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.dirty {
		if !i.dir {
			k, ferr := t.undoFile(i, chance, rng)
			if undone += k; ferr != nil && err == nil {
				err = ferr
			}
		}
	}
	for i := range t.dirty {
		if i.dir && i.refs > 0 {
			if chance > 0 && rng.Float64() < chance {
				t.syncDir(i)
				continue
			}
			undone += len(i.old)
			t.undoDir(i)
		}
	}
	t.dirty = map[*inode]bool{}
	return undone, err
}

func (t *tree) undoDir(dir *inode) {
	old := dir.old
	dir.old = map[string]change{}
	for name, c := range old {
		cur := dir.now[name]
		delete(dir.now, name)
		if c.was != nil { // its reference passes from the disk's name to the present one
			dir.now[name] = c.was
			c.was.links++
		}
		if cur != nil {
			cur.links--
			t.unref(cur)
		}
	}
}

func (t *tree) undoFile(i *inode, chance float64, rng *rand.Rand) (undone int, err error) {
	f, err := os.OpenFile(t.path(i), os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	kept := i.disk
	if i.size > i.disk && chance > 0 && rng.Float64() < chance { // part of an append is there
		kept += rng.Int64N(i.size-i.disk+1) / sector * sector
	}
	if i.size != i.disk {
		undone++
	}
	if err := f.Truncate(kept); err != nil {
		return undone, err
	}
	for p, b := range i.pages {
		undone++
		for s := 0; s < len(b); s += sector {
			if chance > 0 && rng.Float64() < chance && p*page+int64(s) < i.size {
				continue
			}
			if _, err := f.WriteAt(b[s:min(s+sector, len(b))], p*page+int64(s)); err != nil {
				return undone, err
			}
		}
	}
	i.pages, i.size, i.disk = nil, kept, kept
	i.noted.Store(false)
	return undone, nil
}
