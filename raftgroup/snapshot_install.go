package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// A snapshot that a leader sends takes the place of all that the group has. The store has no log of
// its own, so it is done in steps, of which each is durable before the next begins:
//
//	received  the stream is in a file, checked and fsynced
//	marked    the store says that the group is being replaced from that file
//	loading   the group's keys go, the file's come, in many writes
//	loaded    one write sets applied index, term and configuration and removes the mark
//	flushed   that write is durable
//	removed   the file is gone; raft hears that the snapshot is there
//
// A crash before "marked" leaves the old state, and the file is thrown away. A crash from then
// on until "flushed" leaves the mark, and the start repeats "loading" from the file. Afterwards
// the new state is there. raft removes the log behind the snapshot only after the last step.

// loadBytes is how much of a file is put into one write to the store.
const loadBytes = 1 << 20

// installState is a snapshot that was received and not yet restored.
type installState struct {
	pending bool
	meta    stateMeta
}

// installDir is where snapshots from other nodes wait.
func (s *State) installDir() string { return s.fs.PathJoin(s.dir, "install") }

func (g *GroupState) installPath() string {
	return g.s.fs.PathJoin(g.s.installDir(), "group-"+g.id.String())
}

func (g *GroupState) arrow(name string) {
	if g.s.step != nil {
		g.s.step(g.id, name)
	}
}

// snapshotSink takes a snapshot in: raft.SnapshotSink. If nothing is written to it, it is
// that of a live snapshot, and does nothing.
type snapshotSink struct {
	g    *GroupState
	meta stateMeta
	file vfs.File
	done bool
}

// ID returns by which name raft asks for the snapshot to restore.
func (k *snapshotSink) ID() string {
	if k.file == nil {
		return snapshotLive
	}
	return snapshotInstall
}

func (k *snapshotSink) Write(p []byte) (int, error) {
	if k.file == nil {
		f, err := k.g.s.fs.Create(k.g.installPath()+".new", vfs.WriteCategoryUnspecified)
		if err != nil {
			return 0, k.g.s.fault("raftgroup.GroupState.Write", err)
		}
		k.file = f
	}
	n, err := k.file.Write(p)
	if err != nil {
		err = k.g.s.fault("raftgroup.GroupState.Write", err)
	}
	return n, err
}

// Close checks what was received, and makes it durable.
func (k *snapshotSink) Close() error {
	if k.done || k.file == nil {
		return nil
	}
	k.done = true
	path, dir := k.g.installPath(), k.g.s.fs
	err := errors.Join(k.file.Sync(), k.file.Close())
	if err == nil {
		err = k.check(path + ".new")
	}
	if err == nil {
		err = dir.Rename(path+".new", path)
	}
	if err == nil {
		err = k.g.s.syncDir(k.g.s.installDir())
	}
	if err != nil {
		return k.g.s.fault("raftgroup.GroupState.Close", err)
	}
	k.g.install = installState{pending: true, meta: k.meta}
	k.g.arrow("received")
	return nil
}

// check reads the file through, and compares it with what raft said it would be.
func (k *snapshotSink) check(path string) error {
	f, err := k.g.s.fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := openStream(f)
	if err != nil {
		return err
	}
	if r.group != k.g.id || r.meta.index != k.meta.index || r.meta.term != k.meta.term {
		return fmt.Errorf("%w: a snapshot of group %v at %d (term %d), announced as group %v at %d "+
			"(term %d)", eggs.Corrupt, r.group, r.meta.index, r.meta.term, k.g.id, k.meta.index, k.meta.term)
	}
	for err == nil {
		_, _, err = r.next()
	}
	if err == io.EOF {
		err = nil
	}
	return err
}

// Cancel throws away what was received so far.
func (k *snapshotSink) Cancel() error {
	if k.done || k.file == nil {
		return nil
	}
	k.done = true
	return errors.Join(k.file.Close(), k.g.s.remove(k.g.installPath()+".new"))
}

// syncDir makes the names in a folder durable.
func (s *State) syncDir(dir string) error {
	d, err := s.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove removes a file, if it is there.
func (s *State) remove(path string) error {
	if err := s.fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// openInstall returns the file that was received.
func (g *GroupState) openInstall() (*raft.SnapshotMeta, io.ReadCloser, error) {
	if !g.install.pending {
		return nil, nil, eggs.E("raftgroup.GroupState.Open", eggs.NotExist, "no snapshot was received")
	}
	f, err := g.s.fs.Open(g.installPath())
	if err != nil {
		return nil, nil, g.s.fault("raftgroup.GroupState.Open", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, g.s.fault("raftgroup.GroupState.Open", err)
	}
	return g.install.meta.snapshot(snapshotInstall, info.Size()), f, nil
}

// Restore replaces the group's state by what was received before: raft.FSM. If raft hands back
// the live snapshot, as it does at a start without NoSnapshotRestoreOnStart, there is nothing to
// do. Nor is there if the state is ahead of the snapshot: what both have in common is the same.
// The caller closes from.
func (g *GroupState) Restore(from io.ReadCloser) error {
	if !g.install.pending {
		r, err := openStream(from)
		if err == nil && (r.group != g.id || r.meta.index > g.AppliedIndex()) {
			err = fmt.Errorf("%w: a snapshot that did not come through Create", eggs.Invalid)
		}
		if err != nil {
			return g.s.fault("raftgroup.GroupState.Restore", err)
		}
		return nil
	}
	index := g.install.meta.index
	g.install = installState{}
	g.apply.Lock()
	defer g.apply.Unlock()
	if index > g.AppliedIndex() {
		g.replace()
		if err := g.settle(); err != nil {
			return err
		}
	}
	if err := g.s.remove(g.installPath()); err != nil {
		return g.s.fault("raftgroup.GroupState.Restore", err)
	}
	g.arrow("removed")
	return nil
}

// settle tells the log what the state now holds.
func (g *GroupState) settle() error {
	if g.log == nil {
		return nil
	}
	m := g.meta.Load()
	return g.log.Settle(m.index, m.term)
}

// replace marks the group and loads the file. A fault on the way leaves no state to go on with.
func (g *GroupState) replace() {
	g.views.Lock()
	defer g.views.Unlock()
	mark := makePrefix(g.id, spaceInstall)
	err := g.s.db.Set(mark[:], []byte{stateMetaVersion}, pebble.NoSync)
	if err == nil {
		err = g.s.Flush()
	}
	if err == nil {
		g.arrow("marked")
		err = g.loadFile()
	}
	if err != nil {
		g.s.die("raftgroup.GroupState.Restore", err)
	}
	v := g.s.newView(g.id)
	defer v.Close()
	g.machine.Restored(v)
}

// loadFile does the steps from "loading" to "flushed".
func (g *GroupState) loadFile() error {
	f, err := g.s.fs.Open(g.installPath(), vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := openStream(f)
	if err != nil {
		return err
	}
	if err := g.loadPairs(r); err != nil {
		return err
	}
	b := g.s.db.NewBatch()
	defer b.Close()
	mark := makePrefix(g.id, spaceInstall)
	if err := errors.Join(g.putMeta(b, &r.meta), b.Delete(mark[:], nil)); err != nil {
		return err
	}
	if err := g.s.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	g.arrow("loaded")
	if err := g.s.Flush(); err != nil {
		return err
	}
	g.arrow("flushed")
	g.meta.Store(&r.meta)
	return nil
}

func (g *GroupState) loadPairs(r *streamReader) error {
	prefix := makePrefix(g.id, spaceMachine)
	end := prefix.next()
	b := g.s.db.NewBatch()
	defer func() { b.Close() }()
	if err := b.DeleteRange(prefix[:], end[:], nil); err != nil {
		return err
	}
	for {
		k, v, err := r.next()
		if err != nil && err != io.EOF {
			return err
		}
		if err == nil {
			op := b.SetDeferred(len(prefix)+len(k), len(v))
			copy(op.Key[copy(op.Key, prefix[:]):], k)
			copy(op.Value, v)
			if err := op.Finish(); err != nil {
				return err
			}
		}
		if err == io.EOF || b.Len() >= loadBytes {
			if err := g.s.db.Apply(b, pebble.NoSync); err != nil {
				return err
			}
			g.arrow("loading")
			b.Close()
			b = g.s.db.NewBatch()
		}
		if err == io.EOF {
			return nil
		}
	}
}

// resume repeats an installation that a crash cut off, and throws away what one that had not begun
// left behind. It is called before the group is used.
func (g *GroupState) resume() error {
	mark := makePrefix(g.id, spaceInstall)
	_, marked, err := sourceGet(g.s.db, mark[:])
	if err == nil && marked {
		g.s.log.Warn("repeating the installation of a snapshot", "group", g.id.String())
		if err = g.loadFile(); err != nil && eggs.KindOf(err) == eggs.Other {
			err = fmt.Errorf("%w: group %v is half replaced by a snapshot: %w", eggs.Corrupt, g.id, err)
		}
	}
	path := g.installPath()
	if err == nil {
		err = errors.Join(g.s.remove(path), g.s.remove(path+".new"))
	}
	if err != nil {
		return g.s.fault("raftgroup.State.Group", err)
	}
	return nil
}
