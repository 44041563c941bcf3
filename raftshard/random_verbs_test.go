package raftshard

import (
	"fmt"
	"hash/crc32"
	"slices"

	"pgregory.net/rapid"

	"eggsfs/eggs"
	"eggsfs/wire"
)

func (w *world) newFile() *wire.Verb {
	c := &wire.Construct{Mode: 0o644}
	if id, ok := pick(w, "leased", w.leased); ok && rapid.Bool().Draw(w.t, "lease") {
		c.Id = id
		w.leased = slices.DeleteFunc(w.leased, func(x uint64) bool { return x == id })
	}
	return &wire.Verb{Verb: &wire.Verb_Construct{Construct: c}}
}

func inlineVerb(file uint64, cookie []byte, at uint64, data string) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_AddInline{AddInline: &wire.AddInline{
		File: file, Cookie: cookie, Offset: at, Data: []byte(data),
		Crc: crc32.Checksum([]byte(data), castagnoli),
	}}}
}

func linkVerb(file uint64, cookie []byte, dir uint64, name string, absent bool) *wire.Verb {
	return &wire.Verb{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{
		File: file, Cookie: cookie, Dir: dir, Name: name, IfAbsent: absent,
	}}}
}

func (w *world) construct() {
	r := w.do(w.newFile())
	if w.expect("construct", r, eggs.Other) {
		id := r.Results[0].GetConstructed().Id
		w.open = append(w.open, id)
		w.content[id] = nil
	}
}

func (w *world) cookie(id uint64) []byte { return w.key.Cookie(eggs.InodeID(id)) }

// size asks how long a file is.
func (w *world) size(id uint64) uint64 {
	return w.query(&wire.ShardQuery{Query: &wire.ShardQuery_Stat{
		Stat: &wire.Stat{Ids: []uint64{id}},
	}}).GetStat().Attrs[0].Size
}

func (w *world) inline() {
	id, ok := pick(w, "file", w.open)
	if !ok {
		return
	}
	at := w.size(id) + uint64(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(w.t, "hole"))
	want := eggs.Other
	if w.dirty[id] || at != w.size(id) {
		want = eggs.Conflict
	}
	text := fmt.Sprintf("<%d>", w.seq)
	if w.expect("inline", w.do(inlineVerb(id, w.cookie(id), at, text)), want) {
		w.content[id] = append(w.content[id], text...)
	}
}

func (w *world) initiate() {
	id, ok := pick(w, "file", w.open)
	if !ok {
		return
	}
	v := &wire.InitiateSpan{
		File: id, Cookie: w.cookie(id), Offset: w.size(id), Size: 4000, Crc: uint32(w.seq),
		D: 2, P: uint32(rapid.IntRange(0, 2).Draw(w.t, "p")), Stripes: 1, CellSize: 4096,
		StripeCrcs: []uint32{1},
	}
	if w.dirty[id] {
		v.Offset -= 4000
		v.Replace = true
	}
	v.BlockCrcs = make([]uint32, v.D+v.P)
	r := w.do(&wire.Verb{Verb: &wire.Verb_InitiateSpan{InitiateSpan: v}})
	if eggs.Kind(r.Error.GetKind()) == eggs.NoSpace {
		return
	}
	if w.expect("initiate", r, eggs.Other) {
		w.dirty[id] = true
		w.certs[id] = r.Results[0].GetSpanInitiated().Certificates
		w.content[id+1<<63] = []byte(fmt.Sprintf("[%d]", v.Crc)) // what certify adds
	}
}

func (w *world) certify() {
	id, ok := pick(w, "file", w.open)
	if !ok || !w.dirty[id] {
		return
	}
	v := &wire.CertifySpan{File: id, Cookie: w.cookie(id), Offset: w.size(id) - 4000}
	bad := rapid.IntRange(0, 4).Draw(w.t, "bad") == 0
	for _, c := range w.certs[id] {
		mac := w.key.Blocks().WriteProof(blockCert(c))
		if bad {
			mac[3] ^= 1
		}
		v.Proofs = append(v.Proofs, &wire.Proof{Disk: c.Disk, Block: c.Block, Mac: mac})
	}
	want := eggs.Other
	if bad {
		want = eggs.Permission
	}
	verb := &wire.Verb{Verb: &wire.Verb_CertifySpan{CertifySpan: v}}
	if w.expect("certify", w.do(verb), want) {
		w.dirty[id] = false
		w.content[id] = append(w.content[id], w.content[id+1<<63]...)
	}
}

// may says what becomes of giving a name to a file.
func (w *world) may(dir uint64, name string, target uint64, absent bool) eggs.Kind {
	e := w.edges[dir][name]
	isDir := eggs.InodeID(target).IsDir()
	switch {
	case e == nil:
		return eggs.Other
	case e.lock != 0:
		return eggs.Locked
	case absent || isDir && eggs.InodeID(e.target).IsDir():
		return eggs.Exist
	case isDir:
		return eggs.NotDir
	case eggs.InodeID(e.target).IsDir():
		return eggs.IsDir
	}
	return eggs.Other
}

// bury notes that the current edge becomes history.
func (w *world) bury(dir uint64, name string, owned bool) {
	if e := w.edges[dir][name]; e != nil {
		w.past = append(w.past, &wire.RemoveSnapshotEdge{
			Dir: dir, Name: name, Time: e.time, Target: e.target, Owned: owned,
		})
	}
}

func (w *world) setEdge(dir uint64, name string, target uint64, time int64) {
	w.bury(dir, name, true)
	w.edges[dir][name] = &namedEdge{target: target, time: time}
}

func (w *world) vacate(dir uint64, name string, owned bool, marker int64) {
	w.bury(dir, name, owned)
	delete(w.edges[dir], name)
	w.past = append(w.past, &wire.RemoveSnapshotEdge{Dir: dir, Name: name, Time: marker})
}

func (w *world) link() {
	id, ok := pick(w, "file", w.open)
	if !ok {
		return
	}
	dir, name, absent := w.dir(), w.name(), rapid.Bool().Draw(w.t, "absent")
	want := w.may(dir, name, id, absent)
	if w.dirty[id] {
		want = eggs.Conflict
	}
	r := w.do(linkVerb(id, w.cookie(id), dir, name, absent))
	if w.expect("link", r, want) {
		w.setEdge(dir, name, id, r.Results[0].GetLinked().Time)
		w.open = slices.DeleteFunc(w.open, func(x uint64) bool { return x == id })
		w.linked = append(w.linked, id)
	}
}

// small makes a file in one request.
func (w *world) small() {
	dir, name, absent := w.dir(), w.name(), rapid.Bool().Draw(w.t, "absent")
	text := fmt.Sprintf("<%d>", w.seq)
	want := w.may(dir, name, 0, absent)
	r := w.do(w.newFile(), inlineVerb(0, nil, 0, text), linkVerb(0, nil, dir, name, absent))
	if w.expect("small", r, want) {
		id := r.Results[0].GetConstructed().Id
		w.setEdge(dir, name, id, r.Results[2].GetLinked().Time)
		w.linked = append(w.linked, id)
		w.content[id] = []byte(text)
	}
}

func (w *world) symlink() {
	dir, name := w.dir(), w.name()
	want := w.may(dir, name, 0, true)
	r := w.do(&wire.Verb{Verb: &wire.Verb_Symlink{Symlink: &wire.Symlink{
		Dir: dir, Name: name, Target: []byte("x"),
	}}})
	if w.expect("symlink", r, want) {
		m := r.Results[0].GetSymlinkMade()
		w.setEdge(dir, name, m.Id, m.Time)
	}
}

func (w *world) unlink() {
	dir, name := w.dir(), w.name()
	e, want := w.edges[dir][name], eggs.Other
	switch {
	case e == nil:
		want = eggs.NotExist
	case e.lock != 0:
		want = eggs.Locked
	case eggs.InodeID(e.target).IsDir():
		want = eggs.IsDir
	}
	r := w.do(&wire.Verb{Verb: &wire.Verb_Unlink{Unlink: &wire.Unlink{Dir: dir, Name: name}}})
	if w.expect("unlink", r, want) {
		w.vacate(dir, name, true, r.Results[0].GetUnlinked().Time)
	}
}

func (w *world) rename() {
	dir, from, to := w.dir(), w.name(), w.name()
	absent := rapid.Bool().Draw(w.t, "absent")
	e, want := w.edges[dir][from], eggs.Other
	switch {
	case e == nil:
		want = eggs.NotExist
	case e.lock != 0:
		want = eggs.Locked
	case from == to && absent:
		want = eggs.Exist
	case from != to:
		want = w.may(dir, to, e.target, absent)
	}
	r := w.do(&wire.Verb{Verb: &wire.Verb_Rename{Rename: &wire.Rename{
		Dir: dir, From: from, To: to, NoReplace: absent,
	}}})
	if w.expect("rename", r, want) && from != to {
		w.setEdge(dir, to, e.target, r.Time)
		w.vacate(dir, from, false, r.Time+1)
	}
}

func (w *world) mkdir() {
	id := eggs.InodeID(0)
	for id == 0 || id.Shard() != w.shard {
		w.next++
		id = eggs.MakeInodeID(eggs.KindDirectory, 1<<30+w.next)
	}
	dir, name := w.dir(), w.name()
	w.txn++
	w.expect("create", w.stepOf(w.txn, 1, &wire.Verb{Verb: &wire.Verb_CreateDirectory{
		CreateDirectory: &wire.CreateDirectory{Id: uint64(id), Owner: dir, Mode: 0o755},
	}}), eggs.Other)
	want := w.may(dir, name, uint64(id), true)
	r := w.stepOf(w.txn, 2, &wire.Verb{Verb: &wire.Verb_CreateEdge{
		CreateEdge: &wire.CreateEdge{Dir: dir, Name: name, Target: uint64(id)},
	}})
	if w.expect("edge", r, want) {
		w.setEdge(dir, name, uint64(id), r.Results[0].GetEdgeSeen().Time)
		w.dirs = append(w.dirs, uint64(id))
		w.edges[uint64(id)] = map[string]*namedEdge{}
		return
	}
	w.expect("uncreate", w.stepOf(w.txn, 3, &wire.Verb{Verb: &wire.Verb_UncreateDirectory{
		UncreateDirectory: &wire.UncreateDirectory{Id: uint64(id)},
	}}), eggs.Other)
}

func (w *world) lock(dir uint64, name string) (*namedEdge, bool) {
	w.txn++
	e, want := w.edges[dir][name], eggs.Other
	switch {
	case e == nil:
		want = eggs.NotExist
	case e.lock != 0:
		want = eggs.Locked
	}
	return e, w.expect("lock", w.stepOf(w.txn, 1, &wire.Verb{Verb: &wire.Verb_LockEdge{
		LockEdge: &wire.LockEdge{Dir: dir, Name: name},
	}}), want)
}

func (w *world) unlock(txn uint64, dir uint64, name string, moved bool) {
	r := w.stepOf(txn, 9, &wire.Verb{Verb: &wire.Verb_UnlockEdge{
		UnlockEdge: &wire.UnlockEdge{Dir: dir, Name: name, Moved: moved},
	}})
	w.expect("unlock", r, eggs.Other)
	w.edges[dir][name].lock = 0
	if moved {
		w.vacate(dir, name, false, r.Time)
	}
}

func (w *world) rmdir() {
	dir, name := w.dir(), w.name()
	e, ok := w.lock(dir, name)
	if !ok {
		return
	}
	e.lock = w.txn
	if !eggs.InodeID(e.target).IsDir() {
		w.unlock(w.txn, dir, name, false)
		return
	}
	want := eggs.Other
	if len(w.edges[e.target]) > 0 {
		want = eggs.NotEmpty
	}
	gone := w.expect("remove", w.stepOf(w.txn, 2, &wire.Verb{Verb: &wire.Verb_RemoveOwner{
		RemoveOwner: &wire.RemoveOwner{
			Dir: e.target, Inherited: wire.PoliciesOf(eggs.DefaultPolicies(1, 1)),
		},
	}}), want)
	if gone && rapid.Bool().Draw(w.t, "back") {
		w.expect("restore", w.stepOf(w.txn, 3, &wire.Verb{Verb: &wire.Verb_RestoreOwner{
			RestoreOwner: &wire.RestoreOwner{Dir: e.target, Owner: dir},
		}}), eggs.Other)
		gone = false
	}
	if gone {
		w.dirs = slices.DeleteFunc(w.dirs, func(x uint64) bool { return x == e.target })
		delete(w.edges, e.target)
	}
	w.unlock(w.txn, dir, name, gone)
}

// lockAndLeave is a transaction that does not end for a while.
func (w *world) lockAndLeave() {
	if e, ok := w.lock(w.dir(), w.name()); ok {
		e.lock = w.txn
		w.held = append(w.held, w.txn)
	}
}

func (w *world) release() {
	if len(w.held) == 0 {
		return
	}
	txn := w.held[0]
	for dir, names := range w.edges {
		for name, e := range names {
			if e.lock == txn {
				w.unlock(txn, dir, name, false)
			}
		}
	}
	w.held = w.held[1:]
}

// forget removes history, in any order.
func (w *world) forget() {
	if len(w.past) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.past)-1).Draw(w.t, "past")
	v := w.past[i]
	w.past = slices.Delete(w.past, i, i+1)
	r := w.do(&wire.Verb{Verb: &wire.Verb_RemoveSnapshotEdge{RemoveSnapshotEdge: v}})
	switch eggs.Kind(r.Error.GetKind()) {
	case eggs.Other:
		if v.Owned {
			w.linked = slices.DeleteFunc(w.linked, func(x uint64) bool { return x == v.Target })
		}
	case eggs.NotExist: // a marker that went with its neighbour, or the directory
		if v.Target != 0 {
			w.t.Fatal(r.Error)
		}
	default:
		w.t.Fatal(r.Error)
	}
}

// undelete brings something of the past back.
func (w *world) undelete() {
	v, ok := pick(w, "past", w.past)
	if !ok {
		return
	}
	to := w.name()
	if w.edges[v.Dir] == nil {
		return // the directory is removed
	}
	want := w.may(v.Dir, to, 0, true)
	if !v.Owned {
		want = eggs.Conflict
		if v.Target == 0 {
			return // it may be gone with its neighbour
		}
	}
	r := w.do(&wire.Verb{Verb: &wire.Verb_Undelete{Undelete: &wire.Undelete{
		Dir: v.Dir, Name: v.Name, Time: v.Time, Target: v.Target, To: to,
	}}})
	if w.expect("undelete", r, want) {
		v.Owned = false
		w.setEdge(v.Dir, to, v.Target, r.Results[0].GetLinked().Time)
	}
}

// collect takes one step with the first file that is due, and with a removed directory.
func (w *world) collect() {
	a := w.query(&wire.ShardQuery{Query: &wire.ShardQuery_ListTransient{
		ListTransient: &wire.ListTransient{Due: true},
	}}).GetListTransient()
	for _, f := range a.Files {
		w.open = slices.DeleteFunc(w.open, func(x uint64) bool { return x == f.Id })
		r := w.do(&wire.Verb{Verb: &wire.Verb_CondemnSpan{CondemnSpan: &wire.CondemnSpan{File: f.Id}}})
		w.expect("condemn", r, eggs.Other)
		c := r.Results[0].GetSpanCondemned()
		if c.None {
			w.expect("remove file", w.do(&wire.Verb{Verb: &wire.Verb_RemoveFile{
				RemoveFile: &wire.RemoveFile{File: f.Id},
			}}), eggs.Other)
			continue
		}
		v := &wire.RemoveSpan{File: f.Id, Offset: c.Offset}
		for _, e := range c.Erase {
			w.safeToErase(e)
			v.Proofs = append(v.Proofs, &wire.Proof{
				Disk: e.Disk, Block: e.Block, Mac: w.key.Blocks().EraseProof(blockCert(e)),
			})
		}
		if len(c.Erase) > 0 {
			w.expect("remove span", w.do(&wire.Verb{Verb: &wire.Verb_RemoveSpan{RemoveSpan: v}}), eggs.Other)
		}
	}
	d := w.query(&wire.ShardQuery{Query: &wire.ShardQuery_ListDirs{ListDirs: &wire.ListDirs{Due: true}}})
	for _, id := range d.GetListDirs().Ids {
		r := w.do(&wire.Verb{Verb: &wire.Verb_RemoveDirectory{
			RemoveDirectory: &wire.RemoveDirectory{Dir: id},
		}})
		switch eggs.Kind(r.Error.GetKind()) {
		case eggs.Other, eggs.NotEmpty, eggs.Conflict:
		default:
			w.t.Fatal(r.Error)
		}
	}
}

// safeToErase: no block that a writer may still write is below the mark.
func (w *world) safeToErase(e *wire.Certificate) {
	for _, id := range w.open {
		if !w.dirty[id] {
			continue
		}
		for _, c := range w.certs[id] {
			if c.Block < e.Mark || c.Block == e.Block {
				w.t.Fatalf("block %x may still be written; %x is erased with mark %x",
					c.Block, e.Block, e.Mark)
			}
		}
	}
}

func (w *world) attributes() {
	all := append(append([]uint64{}, w.linked...), w.dirs...)
	id, _ := pick(w, "inode", all)
	w.expect("setattr", w.do(
		&wire.Verb{Verb: &wire.Verb_SetAttr{SetAttr: &wire.SetAttr{Id: id, Set: setMode, Mode: 0o700}}},
		&wire.Verb{Verb: &wire.Verb_SetXattr{SetXattr: &wire.SetXattr{
			Id: id, Name: "user." + w.name(), Value: []byte("x"),
		}}},
	), eggs.Other)
}

// reserve takes a name and, so that the model stays simple, gives it back.
func (w *world) reserve() {
	dir, name := w.dir(), w.name()
	want := w.may(dir, name, 0, true)
	v := &wire.Verb{Verb: &wire.Verb_Reserve{Reserve: &wire.Reserve{Dir: dir, Name: name}}}
	w.expect("reserve", w.do(v), want)
	w.expect("release", w.do(&wire.Verb{Verb: &wire.Verb_Release{
		Release: &wire.Release{Dir: dir, Name: name},
	}}), eggs.Other)
}

// garbage is a request that makes no sense; it must be refused in words.
func (w *world) garbage() {
	id := rapid.Uint64().Draw(w.t, "id")
	name := rapid.SampledFrom([]string{"", ".", "a/b", "a\x00"}).Draw(w.t, "bad name")
	verbs := []*wire.Verb{
		nil,
		{},
		{Verb: &wire.Verb_LinkFile{}},
		{Verb: &wire.Verb_InitiateSpan{}},
		linkVerb(id, nil, id, name, false), inlineVerb(id, nil, id, name),
		{Verb: &wire.Verb_Unlink{Unlink: &wire.Unlink{Dir: id, Name: name}}},
		{Verb: &wire.Verb_Rename{Rename: &wire.Rename{Dir: uint64(eggs.Root), From: name, To: "a"}}},
		{Verb: &wire.Verb_CertifySpan{CertifySpan: &wire.CertifySpan{File: id, Offset: id}}},
		{Verb: &wire.Verb_SwapSpan{SwapSpan: &wire.SwapSpan{File: id, Scratch: id}}},
		{Verb: &wire.Verb_RemoveSpan{RemoveSpan: &wire.RemoveSpan{File: id, Proofs: []*wire.Proof{nil}}}},
		{Verb: &wire.Verb_CondemnSpan{CondemnSpan: &wire.CondemnSpan{File: id}}},
		{Verb: &wire.Verb_SetAttr{SetAttr: &wire.SetAttr{Id: id, Set: 1}}},
		{Verb: &wire.Verb_LockEdge{LockEdge: &wire.LockEdge{Dir: uint64(eggs.Root), Name: "a"}}},
		{Verb: &wire.Verb_RemoveDirectory{RemoveDirectory: &wire.RemoveDirectory{Dir: id}}},
		{Verb: &wire.Verb_Symlink{Symlink: &wire.Symlink{Dir: uint64(eggs.Root), Name: name}}},
	}
	v, _ := pick(w, "garbage", verbs)
	if r := w.do(v); r.Error == nil {
		w.t.Fatalf("accepted: %v", v)
	}
}
