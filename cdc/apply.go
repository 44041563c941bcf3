package cdc

import (
	"encoding/binary"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

var sessions = raftgroup.Sessions{Prefix: prefixSession}

// applied is what Apply returns to the Propose that waits: an answer, or the
// transaction that will have one.
type applied struct {
	reply *wire.CdcReply
	txn   *transaction
}

// application is one entry being applied.
type application struct {
	m     *Machine
	tx    raftgroup.Tx
	state *wire.CdcState
	now   eggs.Time
	facts *wire.Facts // replaced ones, to be published when the entry is kept
}

// Apply runs one entry. See raftgroup.Machine.
func (m *Machine) Apply(tx raftgroup.Tx, e raftgroup.Entry) any {
	entry := &wire.CdcEntry{}
	if err := entry.UnmarshalVT(e.Data); err != nil {
		return applied{reply: refused("cdc.Apply", eggs.Corrupt, 0, "", err.Error())}
	}
	if entry.Version > formatVersion {
		return applied{reply: refused("cdc.Apply", eggs.Version, 0, "", "entry of a later version")}
	}
	a := &application{m: m, tx: tx}
	a.start(entry.Clock)
	for _, done := range entry.Done {
		a.done(done)
	}
	var result applied
	if entry.Begin != nil {
		result = a.begin(entry.Begin)
	}
	a.keep()
	if a.facts != nil {
		m.publish(a.facts)
	}
	if result.txn != nil {
		a.took(result.txn)
	}
	return result
}

// start reads the state and makes the group's time of the leader's clock.
func (a *application) start(clock int64) {
	a.state = loadState(a.tx)
	a.state.Time = max(clock, a.state.Time+1)
	a.now = eggs.Time(a.state.Time)
}

func (a *application) keep() { store(a.tx, keyState, a.state) }

// begin runs a request: it answers at once, or begins a transaction, or finds
// the one that the same request began before.
func (a *application) begin(r *wire.CdcRequest) applied {
	if e := validate(r); e != nil {
		return applied{reply: &wire.CdcReply{Error: e}}
	}
	a.expire()
	if open, ok := r.Op.(*wire.CdcRequest_OpenSession); ok {
		id := sessions.Open(a.tx, a.now, open.OpenSession.GetClient())
		return applied{reply: &wire.CdcReply{Session: id}}
	}
	answer, state := sessions.Begin(a.tx, r.Session, r.Sequence, r.Lowest, a.now)
	switch state {
	case raftgroup.SessionAnswered:
		reply := &wire.CdcReply{}
		decode(answer, reply)
		return applied{reply: reply}
	case raftgroup.SessionUnknown:
		return applied{reply: refused("cdc.Do", eggs.BadSession, 0, "", "")}
	case raftgroup.SessionForgotten:
		return applied{reply: refused("cdc.Do", eggs.Indeterminate, 0, "",
			"answered before, and forgotten when the client said that it had the answer")}
	case raftgroup.SessionFull:
		return applied{reply: refused("cdc.Do", eggs.Busy, 0, "",
			"too far above the lowest request without an answer")}
	}
	if t := a.m.find(requestKey{r.Session, r.Sequence}); t != nil {
		return applied{txn: t}
	}
	if isTransaction(r) {
		return a.beginTransaction(r)
	}
	reply := a.fact(r)
	sessions.Answer(a.tx, r.Session, r.Sequence, encode(reply))
	return applied{reply: reply}
}

// expire ends sessions that are due. When the next is due is remembered, so that most
// entries need not look.
func (a *application) expire() {
	if a.m.due > a.now {
		return
	}
	sessions.Expire(a.tx, a.now, sessionsPerEntry)
	due, ok := sessions.Due(a.tx)
	if !ok {
		due = a.now + raftgroup.SessionLife // that of one opened now
	}
	a.m.due = due
}

// beginTransaction writes the transaction, and for mkdir the new directory's
// id and its tentative place in the parent map.
func (a *application) beginTransaction(r *wire.CdcRequest) applied {
	if e := a.admit(r); e != nil {
		// Nothing was done, so the same request may be tried again: no answer is kept.
		return applied{reply: &wire.CdcReply{Error: e}}
	}
	if dir := unknownDir(a.tx, r); dir != 0 {
		reply := refused("cdc.Do", eggs.NotExist, dir, "", "")
		sessions.Answer(a.tx, r.Session, r.Sequence, encode(reply))
		return applied{reply: reply}
	}
	rec := &wire.CdcTransaction{Request: r, Begun: int64(a.now)}
	if op, ok := r.Op.(*wire.CdcRequest_Mkdir); ok {
		rec.Id = uint64(eggs.MakeInodeID(eggs.KindDirectory, a.state.NextDirectory))
		a.state.NextDirectory++
		a.setParent(rec.Id, op.Mkdir.Dir)
	}
	id := a.state.NextTransaction
	a.state.NextTransaction++
	store(a.tx, keyTransaction(id), rec)
	return applied{txn: newTransaction(id, rec)}
}

// took gives a transaction that is new in the log to the caches.
func (a *application) took(t *transaction) {
	if a.m.get(t.id) == nil {
		a.m.begin(t)
	}
}

// admit refuses what would make the set of unfinished transactions too large.
func (a *application) admit(r *wire.CdcRequest) *wire.Error {
	if a.m.unfinished() >= maxUnfinished {
		return refusal("cdc.Do", eggs.Busy, 0, "", "too many transactions")
	}
	if t, ok := a.m.oldest(); ok && a.state.NextTransaction-t.id >= maxWindow {
		return refusal("cdc.Do", eggs.Busy, 0, "",
			"a transaction can't finish: a shard is out of reach")
	}
	return nil
}

// unknownDir returns a directory that the request works in and that is surely not there, or 0.
func unknownDir(r raftgroup.Reader, req *wire.CdcRequest) uint64 {
	if _, ok := req.Op.(*wire.CdcRequest_HardUnlink); ok {
		return 0 // a removed directory keeps its past, and its shard knows it
	}
	for _, t := range touches(req, 0) {
		if t.name != "" && !known(r, t.dir) {
			return t.dir
		}
	}
	return 0
}

// done finishes a transaction: its answer goes to the session, and the parent
// map is made final. One that is finished already is no error: two leaders may have said so.
func (a *application) done(d *wire.CdcDone) {
	t := a.m.get(d.GetTransaction())
	if t == nil || d.Reply == nil {
		return
	}
	r := t.rec.Request
	ok := d.Reply.Error == nil
	switch r.Op.(type) {
	case *wire.CdcRequest_Mkdir:
		if !ok {
			a.dropParent(t.rec.Id)
		}
	case *wire.CdcRequest_Rmdir:
		if ok {
			a.dropParent(d.Reply.Id)
		}
	}
	a.tx.Delete(keyTransaction(t.id))
	if sessions.Awaits(a.tx, r.Session, r.Sequence, a.now) {
		sessions.Answer(a.tx, r.Session, r.Sequence, encode(d.Reply))
	}
	a.m.end(t, d.Reply)
}

func (a *application) setParent(dir, parent uint64) {
	a.tx.Set(keyParent(dir), encodeNumber(parent))
	a.state.Directories++
}

func (a *application) dropParent(dir uint64) {
	if _, ok := parentOf(a.tx, dir); ok {
		a.tx.Delete(keyParent(dir))
		a.state.Directories--
	}
}

func encodeNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// number reads the eight bytes behind a key's prefix.
func number(k []byte) uint64 {
	if len(k) < 9 {
		return 0
	}
	return binary.BigEndian.Uint64(k[1:9])
}
