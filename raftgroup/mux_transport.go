package raftgroup

import (
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"eggsfs/eggs"
)

// transport is one group's raft.Transport over the connections of all groups.
type transport struct {
	host     *Host
	group    *Group
	id       eggs.GroupID
	consumer chan raft.RPC
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
)

// Consumer is what raft takes its requests from.
func (t *transport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr is our ServerID: addresses are resolved when dialling.
func (t *transport) LocalAddr() raft.ServerAddress {
	return raft.ServerAddress(serverID(t.host.cfg.Node))
}

// EncodePeer and DecodePeer carry an address in a vote that raft persists.
func (t *transport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer is the reverse of EncodePeer.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler ignores raft's short cut for heartbeats. It would run
// beside raft's own goroutine and can set the term back that a vote has just
// raised; with it, an entry that a later leader lacks could count as stored.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

func (t *transport) peer(id raft.ServerID) (*peer, error) {
	n := nodeOf(id)
	if n == 0 || n == t.host.cfg.Node {
		return nil, errAway
	}
	p := t.host.peer(n)
	if p == nil {
		return nil, errAway
	}
	return p, nil
}

// AppendEntries replicates while raft feels its way, and heartbeats. It waits
// for the peer to come back, or to open the replica, rather than fail: raft's own
// back-off would outlive the peer's absence by seconds.
func (t *transport) AppendEntries(
	id raft.ServerID, _ raft.ServerAddress,
	a *raft.AppendEntriesRequest, x *raft.AppendEntriesResponse,
) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	if len(a.Entries) == 0 && a.PrevLogEntry == 0 && a.PrevLogTerm == 0 &&
		a.LeaderCommitIndex == 0 {
		return t.sync(p, a, x, beatTime, func(done func([]byte, error)) error {
			return p.heartbeat(t.id, a.Term, done)
		})
	}
	for end := t.host.now() + int64(reconnect); ; {
		err := t.sync(p, a, x, reconnect, func(done func([]byte, error)) error {
			return t.send(p, a, done)
		})
		if err == nil {
			t.group.noteAppended(p.id, a, x)
			return nil
		}
		if err.Error() != errNotHere.Error() || t.host.now() > end ||
			!t.pause(a.Term, patience) {
			return err
		}
	}
}

// sync waits for p, sends, and waits for the answer.
func (t *transport) sync(
	p *peer, a *raft.AppendEntriesRequest, x *raft.AppendEntriesResponse,
	wait time.Duration, send func(done func([]byte, error)) error,
) error {
	if err := t.await(p, a.Term, wait); err != nil {
		return err
	}
	ch := make(chan reply, 1)
	if err := send(func(b []byte, err error) { ch <- reply{b, err} }); err != nil {
		return err
	}
	select {
	case r := <-ch:
		if r.err != nil {
			return r.err
		}
		return parseAppended(r.body, &p.speaker, x)
	case <-t.group.done:
		return errNotHere
	}
}

// pause returns false if we do not lead in term any more.
func (t *transport) pause(term uint64, d time.Duration) bool {
	l := t.group.lead.Load()
	if l == nil || l.term != term {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// await waits until p is connected, we no longer lead, or patience ends.
func (t *transport) await(p *peer, term uint64, patience time.Duration) error {
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
		return nil
	default:
	}
	var deposed <-chan struct{}
	if l := t.group.lead.Load(); l != nil && l.term == term {
		deposed = l.ctx.Done()
	} else { // not yet in office, or no more
		patience = min(patience, time.Second)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-up:
		return nil
	case <-deposed:
	case <-t.group.done:
	case <-timer.C:
	}
	return errAway
}

// send sends an append in frames of about maxChunk. Only the last one's answer
// counts: it succeeds if and only if those before it did.
func (t *transport) send(
	p *peer, a *raft.AppendEntriesRequest, done func([]byte, error),
) error {
	l := p.current()
	if l == nil {
		return errAway
	}
	rest := *a
	for {
		n, size := 0, 0
		for n < len(rest.Entries) && (n == 0 || size+entrySize(rest.Entries[n]) <= maxChunk) {
			size += entrySize(rest.Entries[n])
			n++
		}
		part := rest
		part.Entries = rest.Entries[:n]
		fill := func(b []byte) []byte { return appendAppend(b, &part) }
		if n == len(rest.Entries) {
			return l.call(frameAppend, t.id, appendTime, true, fill, done)
		}
		err := l.call(frameAppend, t.id, appendTime, true, fill, func([]byte, error) {})
		if err != nil {
			return err
		}
		last := part.Entries[n-1]
		rest.Entries = rest.Entries[n:]
		rest.PrevLogEntry, rest.PrevLogTerm = last.Index, last.Term
	}
}

// heartbeat leaves with the next ping, together with those of other groups.
func (p *peer) heartbeat(group eggs.GroupID, term uint64, done func([]byte, error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil {
		return errAway
	}
	id, err := p.link.register(beatTime, done)
	if err != nil {
		return err
	}
	p.beats = append(p.beats, beat{group, id, term})
	return nil
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(
	id raft.ServerID, _ raft.ServerAddress,
	a *raft.RequestVoteRequest, x *raft.RequestVoteResponse,
) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	b, err := p.ask(frameVote, t.id, voteTime, func(b []byte) []byte {
		return appendVote(b, a.Term, a.LastLogIndex, a.LastLogTerm, a.LeadershipTransfer)
	})
	if err != nil {
		return err
	}
	x.RPCHeader = p.speaker.header
	x.Term, x.Granted, err = parseGranted(b, "vote")
	return err
}

// RequestPreVote asks whether a vote would be given.
func (t *transport) RequestPreVote(
	id raft.ServerID, _ raft.ServerAddress,
	a *raft.RequestPreVoteRequest, x *raft.RequestPreVoteResponse,
) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	b, err := p.ask(framePreVote, t.id, voteTime, func(b []byte) []byte {
		return appendVote(b, a.Term, a.LastLogIndex, a.LastLogTerm, false)
	})
	if err != nil {
		return err
	}
	x.RPCHeader = p.speaker.header
	x.Term, x.Granted, err = parseGranted(b, "pre-vote")
	return err
}

// TimeoutNow makes the target stand for election at once.
func (t *transport) TimeoutNow(
	id raft.ServerID, _ raft.ServerAddress,
	_ *raft.TimeoutNowRequest, x *raft.TimeoutNowResponse,
) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	_, err = p.ask(frameTimeoutNow, t.id, askTime, nil)
	x.RPCHeader = p.speaker.header
	return err
}

// AppendEntriesPipeline starts replication with many appends on their way.
func (t *transport) AppendEntriesPipeline(
	id raft.ServerID, _ raft.ServerAddress,
) (raft.AppendPipeline, error) {
	p, err := t.peer(id)
	if err != nil {
		return nil, err
	}
	return &pipeline{
		t: t, p: p, sent: make(chan raft.AppendFuture, maxPiped), closed: make(chan struct{}),
	}, nil
}

// pipeline hands raft its appends in the order in which they were sent, the
// moment they are sent; asking one for its response waits for it. So the
// channel's room bounds what is on its way, and nothing can be dropped.
type pipeline struct {
	t      *transport
	p      *peer
	sent   chan raft.AppendFuture
	closed chan struct{}
	once   sync.Once
}

// AppendEntries sends one append; it waits while maxPiped are on their way.
func (l *pipeline) AppendEntries(
	a *raft.AppendEntriesRequest, x *raft.AppendEntriesResponse,
) (raft.AppendFuture, error) {
	f := &piped{
		start: time.Now(), args: a, resp: x,
		done: make(chan struct{}), closed: l.t.group.done,
	}
	if err := l.reserve(f); err != nil {
		return nil, err
	}
	err := l.t.send(l.p, a, func(b []byte, err error) {
		if err == nil {
			err = parseAppended(b, &l.p.speaker, x)
		}
		if err == nil {
			l.t.group.noteAppended(l.p.id, a, x)
		}
		f.finish(err)
	})
	if err != nil { // f is in the channel already: it says so to its reader too
		f.finish(err)
		return nil, err
	}
	return f, nil
}

func (l *pipeline) reserve(f *piped) error {
	select {
	case l.sent <- f:
		return nil
	default:
	}
	timer := time.NewTimer(appendTime)
	defer timer.Stop()
	select {
	case l.sent <- f:
		return nil
	case <-l.closed:
		return raft.ErrPipelineShutdown
	case <-l.t.group.done:
		return raft.ErrPipelineShutdown
	case <-timer.C:
		return errNoAnswer
	}
}

// Consumer gives raft its appends back.
func (l *pipeline) Consumer() <-chan raft.AppendFuture { return l.sent }

// Close refuses further appends; those on their way end by themselves.
func (l *pipeline) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// piped is one append on its way.
type piped struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error

	done   chan struct{}
	closed <-chan struct{} // the replica is
}

func (f *piped) finish(err error) {
	if err != nil {
		f.err = err
		*f.resp = raft.AppendEntriesResponse{} // not a success: raft leaves the pipeline
	}
	close(f.done)
}

// Error waits for the append to end.
func (f *piped) Error() error {
	if !f.ended() {
		return raft.ErrPipelineShutdown
	}
	return f.err
}

// ended waits until the append or the replica has.
func (f *piped) ended() bool {
	select {
	case <-f.done:
		return true
	case <-f.closed:
		return false
	}
}

// Start is when it was sent.
func (f *piped) Start() time.Time { return f.start }

// Request is what was sent.
func (f *piped) Request() *raft.AppendEntriesRequest { return f.args }

// Response waits for the append to end, since raft reads it without asking for
// the error.
func (f *piped) Response() *raft.AppendEntriesResponse {
	if !f.ended() {
		return &raft.AppendEntriesResponse{}
	}
	return f.resp
}

// InstallSnapshot streams a snapshot over a connection of its own.
func (t *transport) InstallSnapshot(
	id raft.ServerID, _ raft.ServerAddress,
	a *raft.InstallSnapshotRequest, x *raft.InstallSnapshotResponse, data io.Reader,
) error {
	p, err := t.peer(id)
	if err != nil {
		return err
	}
	if err := t.await(p, a.Term, reconnect); err != nil {
		return err
	}
	if err := t.host.sendSnapshot(t.group, p, a, x, data); err != nil {
		return err
	}
	if x.Success {
		t.group.noteMatch(p.id, a.Term, a.LastLogIndex)
	}
	return nil
}
