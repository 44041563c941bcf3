package fuse

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"eggsfs/client"
	"eggsfs/eggs"
)

// fileSystem answers the kernel.
type fileSystem struct {
	gofuse.RawFileSystem // ENOSYS for what is not here: the kernel then does it itself, or not at all

	client client.API
	config Config
	log    *slog.Logger
	root   eggs.InodeID
	limits limits
	births *births

	major, minor uint32 // the device of the mount
	blind        bool   // it is not known

	ctx    context.Context
	cancel context.CancelFunc

	drafts  *drafts
	handles handles
	seen    seen
	dirs    dirs
	opened  *opened
	groups  groups
	waiting waiting

	ending     atomic.Bool
	publishing sync.WaitGroup
	enterMu    sync.Mutex
}

func newFileSystem(c Config) *fileSystem {
	ctx, cancel := context.WithCancel(context.Background())
	if c.Debug {
		c.Client = traced{c.Client, c.Logger}
	}
	return &fileSystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		client:        c.Client, config: c, log: c.Logger, root: c.Root,
		limits: limits{
			fileMemory: c.FileMemory, totalMemory: c.TotalMemory, spillDir: c.SpillDir, spillMax: c.SpillMax,
		},
		births: openBirths(),
		ctx:    ctx, cancel: cancel,
		drafts: newDrafts(), opened: newOpened(),
	}
}

func (f *fileSystem) String() string { return "eggsfs" }

// enter begins a publish, unless the mount is ending.
func (f *fileSystem) enter() bool {
	f.enterMu.Lock()
	defer f.enterMu.Unlock()
	if f.ending.Load() {
		return false
	}
	f.publishing.Add(1)
	return true
}

func (f *fileSystem) leave() { f.publishing.Done() }

// end lets no publish begin any more, and waits for those that have, at most that long.
func (f *fileSystem) end(wait time.Duration) {
	f.enterMu.Lock()
	f.ending.Store(true)
	f.enterMu.Unlock()
	done := make(chan struct{})
	go func() {
		f.publishing.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(wait):
	}
}

// OnUnmount is called after the last request. A mount that was detached while files were
// open ends without their RELEASE.
func (f *fileSystem) OnUnmount() {
	f.end(0)
	for _, d := range f.drafts.orphan() {
		d.io.Lock()
		d.end()
		d.io.Unlock()
	}
	f.cancel()
}

// inode is the id of a node of the kernel.
func (f *fileSystem) inode(node uint64) eggs.InodeID {
	if node == gofuse.FUSE_ROOT_ID {
		return f.root
	}
	return eggs.InodeID(node)
}

// node is the kernel's number of an inode, which stat(2) shows too.
func (f *fileSystem) node(id eggs.InodeID) uint64 {
	if id == f.root {
		return gofuse.FUSE_ROOT_ID
	}
	return uint64(id)
}

// waiting are the requests in progress that may be given up: a process that was killed
// waits in the kernel for the answer to the request it sent. Only requests that
// change nothing are given up, and only for a process that is dying, since ordinary
// signals interrupt too and few programs expect EINTR of stat(2).
type waiting struct {
	mu   sync.Mutex
	list map[*waiter]struct{}
}

type waiter struct {
	since  time.Time
	pid    uint32
	signal <-chan struct{}
	cancel context.CancelFunc
}

// reapEvery is how often waiting requests are looked at, and how old one must be: a
// killed process may wait that long.
const reapEvery = 200 * time.Millisecond

// await returns a context for a request that changes nothing. done must be called.
func (f *fileSystem) await(signal <-chan struct{}, pid uint32) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(f.ctx)
	w := &waiter{time.Now(), pid, signal, cancel}
	f.waiting.mu.Lock()
	if f.waiting.list == nil {
		f.waiting.list = map[*waiter]struct{}{}
	}
	f.waiting.list[w] = struct{}{}
	f.waiting.mu.Unlock()
	return ctx, func() {
		f.waiting.mu.Lock()
		delete(f.waiting.list, w)
		f.waiting.mu.Unlock()
		cancel()
	}
}

// reap gives up requests of dying processes, until the mount ends.
func (f *fileSystem) reap() {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case now := <-tick.C:
			for _, w := range f.signalled(now) {
				if dying(w.pid) {
					w.cancel()
				}
			}
		}
	}
}

func (f *fileSystem) signalled(now time.Time) []*waiter {
	f.waiting.mu.Lock()
	defer f.waiting.mu.Unlock()
	var list []*waiter
	for w := range f.waiting.list {
		if now.Sub(w.since) < reapEvery {
			continue
		}
		select {
		case <-w.signal:
			list = append(list, w)
		default:
		}
	}
	return list
}

// groups are the directories that give their group to what is made in them: those
// with the set-group-id bit. The kernel has asked for a directory's attributes before it
// makes something there, so they are known without asking.
type groups struct {
	mu   sync.RWMutex
	gids map[eggs.InodeID]uint32
}

// maxGroups bounds the set; beyond it, one is forgotten until it is seen again.
const maxGroups = 1 << 16

const (
	modeSetUID = 0o4000
	modeSetGID = 0o2000
)

func (g *groups) see(a *client.Attr) {
	if !a.ID.IsDir() {
		return
	}
	g.mu.RLock()
	gid, known := g.gids[a.ID]
	g.mu.RUnlock()
	gives := a.Mode&modeSetGID != 0
	if gives == known && (!gives || gid == a.GID) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !gives {
		delete(g.gids, a.ID)
		return
	}
	if g.gids == nil {
		g.gids = map[eggs.InodeID]uint32{}
	}
	for id := range g.gids {
		if len(g.gids) < maxGroups {
			break
		}
		delete(g.gids, id)
	}
	g.gids[a.ID] = a.GID
}

// options are the attributes of what a caller makes in a directory.
func (f *fileSystem) options(in *gofuse.InHeader, mode uint32) client.CreateOptions {
	o := client.CreateOptions{Mode: mode & 0o7777, UID: in.Uid, GID: in.Gid}
	f.groups.mu.RLock()
	defer f.groups.mu.RUnlock()
	if gid, ok := f.groups.gids[f.inode(in.NodeId)]; ok {
		o.GID = gid
	}
	return o
}

// inherits reports whether a directory made in dir gets the set-group-id bit.
func (f *fileSystem) inherits(dir eggs.InodeID) bool {
	f.groups.mu.RLock()
	defer f.groups.mu.RUnlock()
	_, ok := f.groups.gids[dir]
	return ok
}

// StatFs reports the room for content.
func (f *fileSystem) StatFs(cancel <-chan struct{}, in *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	ctx, done := f.await(cancel, in.Pid)
	defer done()
	s, err := f.client.StatFS(ctx)
	if err != nil {
		return statusOf(err)
	}
	per := s.Expansion
	if per < 1 {
		per = 1
	}
	const unit = 4096
	out.Bsize, out.Frsize, out.NameLen = unit, unit, eggs.MaxName
	out.Blocks = uint64(float64(s.Capacity) / per / unit)
	out.Bfree = uint64(float64(s.Free) / per / unit)
	out.Bavail = out.Bfree
	return gofuse.OK
}
