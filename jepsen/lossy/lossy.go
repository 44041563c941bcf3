package lossy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	maxWrite     = 1 << 20 // bytes of one request
	unmountLimit = 10 * time.Second
)

// FS is one mounted file system.
type FS struct {
	t      *tree
	dir    string
	name   string
	root   *node
	server *fuse.Server
	fault  atomic.Pointer[Fault]
	met    atomic.Uint64
}

// Mount mounts an empty file system at dir, with its contents in the empty folder
// store. name is its name in /proc/mounts.
func Mount(dir, store, name string) (*FS, error) {
	t, err := newTree(store)
	if err != nil {
		return nil, err
	}
	m := &FS{t: t, dir: dir, name: name}
	return m, m.mount()
}

func (m *FS) mount() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	hour := time.Hour
	m.root = &node{m: m, i: m.t.root}
	server, err := fs.Mount(m.dir, m.root, &fs.Options{
		AttrTimeout: &hour, EntryTimeout: &hour,
		RootStableAttr: &fs.StableAttr{Ino: m.t.root.id, Mode: syscall.S_IFDIR},
		MountOptions: fuse.MountOptions{
			FsName: m.name, Name: "lossy", DirectMount: true, AllowOther: true,
			MaxWrite: maxWrite, MaxBackground: 64,
		},
	})
	if err != nil {
		return fmt.Errorf("lossy: mount at %s: %w", m.dir, err)
	}
	m.server = server
	return nil
}

// Close takes the mount away, whatever uses it, and removes what was stored.
func (m *FS) Close() error {
	err := m.unmount()
	if rerr := os.RemoveAll(m.t.store); err == nil {
		err = rerr
	}
	return err
}

func (m *FS) unmount() error {
	m.SetFault(nil)
	for limit := time.Now().Add(unmountLimit); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Unmount(m.dir, 0)
		if err == nil {
			break
		}
		if time.Now().After(limit) {
			if derr := syscall.Unmount(m.dir, syscall.MNT_DETACH); derr != nil {
				return fmt.Errorf("lossy: unmount %s: %w", m.dir, err)
			}
			break
		}
	}
	done := make(chan struct{})
	go func() { m.server.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(unmountLimit):
		return fmt.Errorf("lossy: %s is still in use after %s", m.dir, unmountLimit)
	}
}

// PowerLoss makes the file system what a disk would have, and mounts it again. Who used
// it must be dead. chance is how likely each thing that was not synced is on disk all
// the same: 0 for none of it. It returns how many pages and names were undone.
func (m *FS) PowerLoss(chance float64, seed uint64) (undone int, err error) {
	if err := m.unmount(); err != nil {
		return 0, err
	}
	if undone, err = m.t.powerLoss(chance, rand.New(rand.NewPCG(seed, 0))); err != nil {
		return undone, err
	}
	return undone, m.mount()
}

// Files lists the files below a folder, by paths below the mount point, without using the
// mount: a process must not hold files of a mount that it serves when it starts another.
func (m *FS) Files(folder string) []string {
	m.t.mu.Lock()
	defer m.t.mu.Unlock()
	var all []string
	var walk func(path string, i *inode)
	walk = func(path string, i *inode) {
		for name, child := range i.now {
			if p := filepath.Join(path, name); child.dir {
				walk(p, child)
			} else {
				all = append(all, p)
			}
		}
	}
	if top := m.t.root.now[folder]; top != nil && top.dir {
		walk(folder, top)
	}
	slices.Sort(all)
	return all
}

// Size is a file's, in bytes; 0 when it is not there.
func (m *FS) Size(path string) int64 {
	m.t.mu.Lock()
	defer m.t.mu.Unlock()
	i := m.t.root
	for _, part := range strings.Split(filepath.Clean(path), "/") {
		if i = i.now[part]; i == nil {
			return 0
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.size
}

// Rot flips one bit of a file, given by its path below the mount point, without
// anybody being told.
func (m *FS) Rot(path string, bit int64) error {
	m.t.mu.Lock()
	i, known := m.t.root, m.root.EmbeddedInode()
	for _, part := range strings.Split(filepath.Clean(path), "/") {
		if i = i.now[part]; i == nil {
			m.t.mu.Unlock()
			return fmt.Errorf("lossy: rot %s: %w", path, os.ErrNotExist)
		}
		if known != nil {
			known = known.GetChild(part)
		}
	}
	m.t.mu.Unlock()
	if err := FlipBit(m.t.path(i), bit); err != nil {
		return err
	}
	if known != nil { // the kernel may have it in its cache
		if e := known.NotifyContent(0, 0); e != 0 && e != syscall.ENOENT {
			return fmt.Errorf("lossy: rot %s: %w", path, e)
		}
	}
	return nil
}

// FlipBit flips one bit of a plain file.
func FlipBit(path string, bit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], bit/8); err != nil {
		return fmt.Errorf("lossy: flip a bit of %s: %w", path, err)
	}
	b[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(b[:], bit/8)
	return err
}
