package fuse

import (
	"slices"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
)

// stillHeld reports whether somebody still holds the open file of a draft. See the package
// comment for whom it asks. When nothing can be known, nobody does.
func (d *draft) stillHeld(pid uint32, h *handle) bool {
	if pid == 0 || d.fs.blind {
		return false // 0: of another pid namespace
	}
	of := openFile{d.fs.major, d.fs.minor, uint64(h.node), h.mayWrite()}
	got, err := holds(pid, of)
	if err != nil {
		return false
	}
	return got || d.mmap && mapped(pid, of) || d.heldElsewhere(pid, of)
}

func (d *draft) heldElsewhere(pid uint32, of openFile) bool {
	alone := sameGroup(d.opener, pid)
	if alone && d.born != 0 && d.fs.births.count() == d.born {
		return false
	}
	ds := d.fs.drafts
	ds.mu.RLock()
	writers, list := slices.Clone(d.writers), slices.Clone(d.holders)
	ds.mu.RUnlock()
	list = append(append(list, writers...), descendants(pid)...)
	if !alone {
		list = append(list, ancestors(pid, d.opener)...)
	}
	for _, p := range list {
		if sameGroup(p, pid) {
			continue
		}
		if got, err := holds(p, of); err == nil && got || d.mmap && mapped(p, of) {
			d.remember(p)
			return true
		}
	}
	// A writer that is being killed has no descriptors any more, and its FLUSH is on the way:
	// that one decides.
	return slices.ContainsFunc(writers, func(p uint32) bool { return !sameGroup(p, pid) && beingKilled(p) })
}

// remember adds a process that holds the file to those that are asked.
func (d *draft) remember(pid uint32) {
	ds := d.fs.drafts
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if !slices.Contains(d.holders, pid) && len(d.holders) < maxWriters {
		d.holders = append(d.holders, pid)
	}
}

// wrote reports whether a process opened the draft or wrote to it.
func (d *draft) wrote(pid uint32) bool {
	ds := d.fs.drafts
	ds.mu.RLock()
	writers := slices.Clone(d.writers)
	ds.mu.RUnlock()
	return slices.ContainsFunc(writers, func(p uint32) bool { return sameGroup(p, pid) })
}

// flush is a close(2) of one descriptor. It publishes when that was the last one and no
// writer was killed. A process that inherited the descriptor and never wrote neither
// saves a killed writer's file by its close nor loses another's by its death.
func (d *draft) flush(h *handle, pid uint32) error {
	d.io.Lock()
	defer d.io.Unlock()
	if d.err != nil {
		d.close(h)
		return d.err
	}
	if !d.state().dirty {
		d.close(h)
		return nil
	}
	v, known := d.look(pid, h)
	d.fs.log.Debug("close", "inode", d.node, "pid", pid, "held", v.held, "killed", v.slain, "executes", !known)
	if !known {
		return nil // whoever else holds the file decides at its close, or the end of the handle does
	}
	held, wrote, slain := v.held, v.wrote, v.slain
	if slain {
		d.doomed = true
	}
	if held {
		return nil
	}
	d.close(h)
	if slain || d.doomed && !wrote {
		d.fs.log.Debug("the writer was killed: not published", "inode", d.node, "pid", pid)
		return nil
	}
	if d.claims > 0 {
		return nil // another handle is open; its close publishes
	}
	return d.publish()
}

// close notes that a handle was closed, as far as FLUSH can tell. io is held.
func (d *draft) close(h *handle) {
	if h.claims {
		h.claims = false
		d.claims--
	}
}

// claim notes that a handle may publish. io is held.
func (d *draft) claim(h *handle) {
	if !h.claims && h.publishes {
		h.claims = true
		d.claims++
	}
}

// release is the end of a handle; the last one ends the draft.
func (d *draft) release(h *handle) {
	d.io.Lock()
	defer d.io.Unlock()
	d.close(h)
	ds := d.fs.drafts
	ds.mu.Lock()
	d.handles--
	ds.mu.Unlock()
	if h.publishes && d.claims == 0 && d.err == nil && !d.doomed && d.state().dirty {
		if err := d.publish(); err != nil {
			d.fs.log.Error("a file was lost after its close", "inode", d.node, "err", err)
		}
	}
	d.end()
}

// end forgets the draft if no handle is open. io is held.
func (d *draft) end() {
	if !d.fs.drafts.forget(d) {
		return
	}
	if d.writer != nil {
		d.writer.Abort()
		d.writer = nil
	}
	d.body.drop()
}

// scrap gives the writer of an unlinked draft up when it holds no bytes, so that an
// exclusive name is free at once. io is held.
func (d *draft) scrap() {
	if d.writer != nil && d.body.sent == nil && d.body.over == nil {
		d.writer.Abort()
		d.writer = nil
	}
}

// publish makes the file durable and visible, unless it has no name any more. io is held.
func (d *draft) publish() error {
	s := d.state()
	if !s.linked {
		return nil
	}
	if !d.fs.enter() {
		return eggs.E("fuse.publish", eggs.IO, "the mount is ending")
	}
	defer d.fs.leave()
	start := time.Now()
	w, err := d.deliver()
	if err != nil {
		d.fs.dirs.forget(s.at.dir)
		d.lose(err)
		return err
	}
	d.fs.dirs.touch(s.at.dir, w.Attr().Ctime)
	ds := d.fs.drafts
	ds.mu.Lock()
	d.id, d.over = w.ID(), true
	ds.clean(d)
	ds.replaced(d)
	ds.mu.Unlock()
	d.writer = nil
	d.body.published(&lazyReader{ctx: d.fs.ctx, client: d.fs.client, id: w.ID()})
	d.fs.log.Debug("published", "inode", w.ID(), "name", s.at.name,
		"size", d.body.size, "took", time.Since(start))
	return nil
}

// deliver sends what is left and closes the writer. A writer whose construction expired
// is replaced once, when all bytes are still here.
func (d *draft) deliver() (client.Writer, error) {
	old := d.writer
	fresh := old == nil || d.body.over != nil && old.Size() > 0
	defer func() {
		if old != nil && old != d.writer {
			old.Abort() // not before: it may be the base of an overlay
		}
	}()
	for try := 0; ; try++ {
		if fresh {
			if _, err := d.freshWriter(); err != nil {
				return nil, err
			}
		}
		err := d.closeWriter()
		if err == nil {
			return d.writer, nil
		}
		lost := eggs.KindOf(err) == eggs.Expired || eggs.KindOf(err) == eggs.BadSession
		if try > 0 || !lost || d.body.sent != nil {
			return nil, err
		}
		if d.writer != old {
			d.writer.Abort()
		}
		fresh = true
	}
}

func (d *draft) closeWriter() error {
	if err := d.body.send(d.writer); err != nil {
		return err
	}
	if name := d.state().at.name; name != d.named {
		d.writer.Rename(name)
		d.named = name
	}
	a := d.snapshot()
	d.writer.SetAttr(client.SetAttr{
		Mode: &a.Mode, UID: &a.UID, GID: &a.GID, Mtime: &a.Mtime, Atime: &a.Atime,
	})
	d.writer.SetXattrs(a.Xattrs)
	_, err := d.writer.Close(d.fs.ctx)
	return err
}

// lose gives the file up after a failed publish: close(2) has reported it.
func (d *draft) lose(err error) {
	d.err = err
	ds := d.fs.drafts
	ds.mu.Lock()
	ds.clean(d)
	ds.unlink(d)
	ds.mu.Unlock()
	if d.writer != nil && eggs.KindOf(err) != eggs.Indeterminate {
		d.writer.Abort()
	}
	d.writer = nil
	d.fs.log.Warn("a file could not be published", "inode", d.node, "err", err)
}
