package raftshard

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// sessions is the table that answers a client's request exactly once.
var sessions = raftgroup.Sessions{Prefix: tableSessions}

// expirePerEntry bounds what one entry pays for others' dead sessions.
const expirePerEntry = 4

// Machine is a shard's state machine. Apply is its half of a change; the
// leader's half is Shard's. Its fields are caches of what is stored.
type Machine struct {
	shard eggs.ShardID
	key   *auth.Key
	known *state    // the stored state; nil: to be read
	due   eggs.Time // no session is due before
	begun begun
}

// begun is the highest sequence that each session has begun, as far as this
// machine has seen it: a request above it has no answer to look for.
type begun struct {
	mu      sync.Mutex
	highest map[uint64]uint64
}

// maxBegun bounds the sessions that are remembered; forgetting costs a look-up.
const maxBegun = 10_000

func (b *begun) note(session, sequence uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.highest == nil || len(b.highest) >= maxBegun {
		b.highest = make(map[uint64]uint64)
	}
	b.highest[session] = max(b.highest[session], sequence)
}

// fresh reports whether a request was surely never executed up to now.
func (b *begun) fresh(session, sequence uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.highest[session]
	return ok && sequence > h
}

func (b *begun) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.highest = nil
}

var _ raftgroup.Machine = (*Machine)(nil)

// NewMachine returns the machine of a shard. Apply does not use the key: it is
// for the Shard that answers from this machine.
func NewMachine(shard eggs.ShardID, key *auth.Key) *Machine {
	return &Machine{shard: shard, key: key}
}

// Restored drops what was known.
func (m *Machine) Restored(raftgroup.Reader) {
	m.known, m.due = nil, 0
	m.begun.reset()
}

// Apply runs one entry and returns a *wire.ShardReply, without the MACs, which
// are made on its way out.
func (m *Machine) Apply(tx raftgroup.Tx, e raftgroup.Entry) any {
	var entry wire.ShardEntry
	if err := entry.UnmarshalVT(e.Data); err != nil {
		return &wire.ShardReply{Error: wire.ErrorOf(
			eggs.E("raftshard.Apply", eggs.Invalid, "the entry cannot be read"))}
	}
	if entry.Request == nil {
		entry.Request = &wire.ShardRequest{}
	}
	if entry.Version > FormatVersion {
		// Going on would make this replica differ from those that understand.
		panic(fmt.Sprintf("raftshard: shard %d: entry %d has format %d; this program knows %d",
			m.shard, e.Index, entry.Version, FormatVersion))
	}
	a := &apply{m: m, tx: tx, entry: &entry, req: entry.Request}
	return a.run()
}

// apply is one entry being applied.
type apply struct {
	m     *Machine
	tx    raftgroup.Tx
	entry *wire.ShardEntry
	req   *wire.ShardRequest

	state state
	due   eggs.Time // as Machine.due
	first eggs.Time // the entry's time
	now   eggs.Time // the time of the verb that runs

	verb    int          // its index
	made    eggs.InodeID // the file that this request constructed last
	choices int          // how many InitiateSpan came before
	seen    *wire.Result // what a refused CDC verb saw

	dirs      records[DirectoryRecord, *DirectoryRecord]
	files     records[FileRecord, *FileRecord]
	transient records[TransientRecord, *TransientRecord]
}

// run answers the request: from memory, or by its verbs, all or none. Only
// Unavailable is not remembered: the leader is to prepare the same request anew.
func (a *apply) run() *wire.ShardReply {
	a.start()
	reply, remember := a.known()
	if reply == nil {
		reply = &wire.ShardReply{Time: int64(a.first)}
		if err := a.verbs(reply); err != nil {
			// Forget all of it, then do again what is due even to a refusal.
			a.tx.Rollback()
			a.start()
			a.known()
			reply.Error, reply.Results = wire.ErrorOf(err), nil
			if a.seen != nil {
				reply.Results = []*wire.Result{a.seen}
			}
		}
		if remember != nil && reply.Error.GetKind() != uint32(eggs.Unavailable) {
			remember(reply)
		}
	}
	a.finish()
	return reply
}

// start reads the state, makes the group's time of the leader's clock and lets
// sessions end. It is done anew after a rollback.
func (a *apply) start() {
	a.made, a.choices = 0, 0
	a.dirs.reset(tableDirectory)
	a.files.reset(tableFile)
	a.transient.reset(tableTransient)
	a.due = a.m.due
	if a.m.known == nil {
		v, ok := a.tx.Get([]byte{tableState})
		if ok {
			a.m.known = &state{}
			a.m.known.decode(v)
		}
	}
	if a.m.known == nil {
		a.genesis()
	} else {
		a.state = *a.m.known
	}
	a.first = max(eggs.Time(a.entry.Clock), a.state.time+1)
	a.state.time = a.first - 1
	a.now = a.first
	a.expire()
}

// genesis is done by the first entry: the format and, in its shard, the root.
func (a *apply) genesis() {
	a.state = state{block: 1}
	a.tx.Set([]byte{tableVersion}, binary.BigEndian.AppendUint32(nil, FormatVersion))
	if eggs.Root.Shard() == a.m.shard {
		t := max(a.entry.Clock, 1)
		a.dirs.put(a.tx, eggs.Root,
			&DirectoryRecord{Mode: 0o755, Ctime: t, Mtime: t, Atime: t})
	}
}

// tick gives the next nanosecond of the group's time.
func (a *apply) tick() eggs.Time {
	a.state.time++
	return a.state.time
}

// finish writes what the entry changed and remembers the state.
func (a *apply) finish() {
	a.flush()
	a.state.time = max(a.state.time, a.first)
	a.tx.Set([]byte{tableState}, a.state.encode())
	known := a.state
	a.m.known, a.m.due = &known, a.due
}

// expire ends sessions that are due, with their leases and reservations.
func (a *apply) expire() {
	if a.due > a.first {
		return
	}
	for _, s := range sessions.Expire(a.tx, a.first, expirePerEntry) {
		a.endLeases(s)
		a.endReservations(s)
	}
	if due, ok := sessions.Due(a.tx); ok {
		a.due = due
	} else {
		a.due = a.first + raftgroup.SessionLife // that of one opened now
	}
}

// known looks the request up. It returns the answer, or nil and what remembers the
// answer to come, if it is to be remembered.
func (a *apply) known() (*wire.ShardReply, func(*wire.ShardReply)) {
	r := a.req
	switch {
	case r.Fence != nil && r.Session != 0:
		return a.refusal(eggs.Invalid, "a request has a session or a fence, not both"), nil
	case r.Fence != nil:
		return a.knownStep(r.Fence)
	case r.Session == 0:
		return nil, nil // verbs allows OpenSession only
	}
	answer, st := sessions.Begin(a.tx, r.Session, r.Sequence, r.Lowest, a.first)
	switch st {
	case raftgroup.SessionAnswered:
		return a.remembered(answer), nil
	case raftgroup.SessionUnknown:
		return a.refusal(eggs.BadSession, ""), nil
	case raftgroup.SessionForgotten:
		return a.refusal(eggs.Stale, "the request's answer was said to be known"), nil
	case raftgroup.SessionFull:
		return a.refusal(eggs.Busy, fmt.Sprintf(
			"the sequence is %d or more above the lowest not answered",
			raftgroup.SessionWindow)), nil
	}
	return nil, func(reply *wire.ShardReply) {
		a.m.begun.note(r.Session, r.Sequence)
		sessions.Answer(a.tx, r.Session, r.Sequence, encode(reply))
	}
}

// refusal answers a request that was not executed and is not remembered.
func (a *apply) refusal(kind eggs.Kind, text string) *wire.ShardReply {
	return &wire.ShardReply{
		Error: wire.ErrorOf(eggs.E("raftshard.Apply", kind, text)), Time: int64(a.first),
	}
}

func (a *apply) remembered(answer []byte) *wire.ShardReply {
	reply := &wire.ShardReply{}
	if err := reply.UnmarshalVT(answer); err != nil {
		return a.refusal(eggs.Corrupt, "a remembered answer cannot be read")
	}
	return reply
}

// verbs runs the request's verbs until one is refused.
func (a *apply) verbs(reply *wire.ShardReply) error {
	if err := checkRequest(a.m.shard, a.req); err != nil {
		return err
	}
	if len(a.req.Verbs) == 0 {
		return nil
	}
	reply.Results = make([]*wire.Result, len(a.req.Verbs))
	for i, v := range a.req.Verbs {
		a.verb, a.now = i, a.tick()
		res, op, err := a.do(v)
		if err != nil {
			if e, ok := err.(*eggs.Error); ok && e.Op == "" {
				e.Op = "raftshard." + op
			}
			return err
		}
		if res == nil {
			res = &wire.Result{Result: emptyResult}
		}
		reply.Results[i] = res
	}
	return nil
}

var emptyResult = &wire.Result_Empty{Empty: &wire.Empty{}}

// do runs one verb. A nil result is Empty.
func (a *apply) do(v *wire.Verb) (*wire.Result, string, error) {
	if v == nil {
		return nil, "Apply", fail(eggs.Invalid, 0, "", "a verb is missing")
	}
	if a.req.Fence != nil {
		return a.doStep(v)
	}
	if x, ok := v.Verb.(*wire.Verb_OpenSession); ok {
		return a.openSession(x.OpenSession), "OpenSession", nil
	}
	if a.req.Session == 0 {
		return nil, "Apply", fail(eggs.BadSession, 0, "", "only OpenSession needs none")
	}
	switch x := v.Verb.(type) {
	case *wire.Verb_LeaseIds:
		return verb("LeaseIds", x.LeaseIds, a.leaseIDs)
	case *wire.Verb_Construct:
		return verb("Construct", x.Construct, a.construct)
	case *wire.Verb_AddInline:
		return verb("AddInline", x.AddInline, a.addInline)
	case *wire.Verb_InitiateSpan:
		return verb("InitiateSpan", x.InitiateSpan, a.initiateSpan)
	case *wire.Verb_CertifySpan:
		return verb("CertifySpan", x.CertifySpan, a.certifySpan)
	case *wire.Verb_LinkFile:
		return verb("LinkFile", x.LinkFile, a.linkFile)
	case *wire.Verb_Reserve:
		return verb("Reserve", x.Reserve, a.reserve)
	case *wire.Verb_Release:
		return verb("Release", x.Release, a.release)
	case *wire.Verb_Scrap:
		return verb("Scrap", x.Scrap, a.scrap)
	case *wire.Verb_SetAttr:
		return verb("SetAttr", x.SetAttr, a.setAttr)
	case *wire.Verb_Symlink:
		return verb("Symlink", x.Symlink, a.symlink)
	case *wire.Verb_Unlink:
		return verb("Unlink", x.Unlink, a.unlink)
	case *wire.Verb_Rename:
		return verb("Rename", x.Rename, a.rename)
	case *wire.Verb_SetPolicy:
		return verb("SetPolicy", x.SetPolicy, a.setPolicy)
	case *wire.Verb_SetXattr:
		return verb("SetXattr", x.SetXattr, a.setXattr)
	case *wire.Verb_Undelete:
		return verb("Undelete", x.Undelete, a.undelete)
	}
	return a.doSweep(v)
}

// verb runs f on v, which the network may have left out.
func verb[V any](op string, v *V, f func(*V) (*wire.Result, error)) (*wire.Result, string, error) {
	if v == nil {
		v = new(V)
	}
	res, err := f(v)
	return res, op, err
}

func (a *apply) openSession(v *wire.OpenSession) *wire.Result {
	id := sessions.Open(a.tx, a.now, v.GetClient())
	return &wire.Result{Result: &wire.Result_SessionOpened{
		SessionOpened: &wire.SessionOpened{Session: id},
	}}
}

// fail makes the error of a verb; its Op is filled in by verbs.
func fail(kind eggs.Kind, id eggs.InodeID, name, text string) error {
	e := eggs.E("", kind, text)
	e.Inode, e.Name = id, name
	return e
}

// listed reports whether the leader listed this verb.
func (a *apply) listed(verbs []uint32) bool { return slices.Contains(verbs, uint32(a.verb)) }
