package client

import (
	"context"
	"maps"
	"slices"

	"eggsfs/eggs"
	"eggsfs/erasure"
	"eggsfs/wire"
)

// Close makes the file durable and visible under its name, whole.
func (w *writer) Close(ctx context.Context) (replaced eggs.InodeID, err error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if err := w.usable(); err != nil {
		w.giveUp(true)
		return 0, fail("Close", w.ID(), w.name, err)
	}
	replaced, err = w.publish(ctx)
	if err != nil {
		w.broken(err)
		w.giveUp(eggs.KindOf(err) != eggs.Indeterminate)
		return 0, fail("Close", w.ID(), w.name, err)
	}
	w.end(closed)
	w.c.files.unclaim(w.dir, w.exclusive)
	return replaced, nil
}

// publish sends what is left and links the file. wmu is held.
func (w *writer) publish(ctx context.Context) (eggs.InodeID, error) {
	if err := eggs.CheckName(w.name); err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, w.cancel) // spans on their way are given up with the caller
	defer stop()
	if w.fill > 0 && !w.inline(w.fill) {
		if err := w.ship(); err != nil {
			return 0, err
		}
	}
	if f := w.flight; f != nil {
		<-f.done
		if f.err != nil {
			return 0, f.err
		}
	}
	reply, err := w.request(ctx, w.linkVerbs)
	if err != nil {
		return 0, err
	}
	for i := range reply.Results {
		if r, err := resultOf[*wire.Result_Linked](reply, i); err == nil {
			w.linked(eggs.Time(r.Linked.Time))
			return eggs.InodeID(r.Linked.Replaced), nil
		}
	}
	return 0, eggs.E("client.Close", eggs.Indeterminate, "the answer does not say that it is linked")
}

// linkVerbs are what is left to be done, in one request. mu is held.
func (w *writer) linkVerbs() []*wire.Verb {
	var verbs []*wire.Verb
	fresh := w.cookie == nil
	if fresh {
		verbs = append(verbs, w.constructVerb())
	}
	if f := w.flight; f != nil && !f.certified {
		verbs = append(verbs, w.certifyVerb(f))
	}
	file := w.fileRef()
	if w.fill > 0 {
		data := w.buf.Bytes[:w.fill]
		verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_AddInline{AddInline: &wire.AddInline{
			File: file, Cookie: w.cookie, Offset: uint64(w.start), Data: data,
			Crc: erasure.CRC(data),
		}}})
	}
	if late := w.lateAttr(); !fresh && late.Set != 0 {
		verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_SetAttr{SetAttr: late}})
	}
	for _, name := range slices.Sorted(maps.Keys(w.attr.Xattrs)) {
		verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: &wire.SetXattr{
			Id: file, Cookie: w.cookie, Name: name, Value: w.attr.Xattrs[name],
		}}})
	}
	verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{
		File: file, Cookie: w.cookie, Dir: uint64(w.dir), Name: w.name,
		IfAbsent: w.exclusive == w.name,
	}}})
	if w.exclusive != "" && w.exclusive != w.name {
		verbs = append(verbs, w.releaseVerb())
	}
	return verbs
}

// lateAttr is what changed since construct. Without a word the shard takes the
// last change of the bytes as mtime. mu is held.
func (w *writer) lateAttr() *wire.SetAttr {
	s := &wire.SetAttr{
		Id: uint64(w.id), Cookie: w.cookie, Set: w.set,
		Mode: w.attr.Mode, Uid: w.attr.UID, Gid: w.attr.GID,
	}
	switch {
	case w.mtime:
		s.Set, s.Mtime = s.Set|setMtime, int64(w.attr.Mtime)
	case w.given:
		s.Set |= setMtimeNow
	}
	if w.atime {
		s.Set, s.Atime = s.Set|setAtime, int64(w.attr.Atime)
	}
	return s
}

func (w *writer) releaseVerb() *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_Release{
		Release: &wire.Release{Dir: uint64(w.dir), Name: w.exclusive},
	}}
}

// linked notes what the file is from now on.
func (w *writer) linked(t eggs.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attr.Size = w.start + int64(w.fill)
	w.attr.Ctime, w.attr.Transient = t, false
	if !w.mtime {
		w.attr.Mtime = t
	}
	if !w.atime {
		w.attr.Atime = t
	}
}

// end frees what the writer holds. wmu is held.
func (w *writer) end(s writerState) {
	w.cancel()
	w.c.files.removeWriter(w)
	if w.reader != nil {
		w.reader.Close()
		w.reader = nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = s
	if w.stream {
		w.stream = false
		w.c.streams.Add(-1)
	}
	w.start, w.fill = w.start+int64(w.fill), 0
	w.buf.Release()
	w.buf = nil
}

// Abort gives the file up.
func (w *writer) Abort() {
	w.cancel() // what is on its way ends now
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.giveUp(true)
}

// giveUp ends the writer; scrap tells the shard, in the background and as
// best it can: what it does not hear, its deadline tells it. wmu is held.
func (w *writer) giveUp(scrap bool) {
	w.mu.Lock()
	state := w.state
	w.mu.Unlock()
	if state != writing {
		return
	}
	w.cancel()
	flying := w.flight != nil
	if flying {
		<-w.flight.done
	}
	w.end(aborted)
	verbs := w.scrapVerbs(scrap, flying)
	w.mu.Lock()
	s, id := w.sess, w.id
	w.mu.Unlock()
	if len(verbs) == 0 {
		return
	}
	unclaim := func() { w.c.files.unclaim(w.dir, w.exclusive) }
	if !w.c.spawn(func() {
		defer unclaim() // not before: our own release must not hit the next holder
		ctx, cancel := context.WithTimeout(w.c.ctx, scrapTime)
		defer cancel()
		for _, v := range verbs {
			if _, err := w.c.shardIn(ctx, w.shard, s, v); err != nil {
				w.c.log.Debug("an abandoned file is left to its deadline", "file", id, "err", err)
			}
		}
	}) {
		unclaim()
	}
}

// scrapVerbs tells the shard what is not needed any more. An id that nobody
// has heard of is kept for the next file.
func (w *writer) scrapVerbs(scrap, flying bool) (verbs []*wire.Verb) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if scrap && w.cookie != nil {
		verbs = append(verbs, &wire.Verb{Verb: &wire.Verb_Scrap{
			Scrap: &wire.Scrap{File: uint64(w.id), Cookie: w.cookie},
		}})
	}
	if w.cookie == nil && !flying && w.err == nil {
		w.sess.giveID(w.id)
	}
	if w.exclusive != "" {
		verbs = append(verbs, w.releaseVerb())
	}
	return verbs
}
