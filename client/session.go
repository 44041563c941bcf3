package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Limits of sessions.
const (
	// A group forgets a session an hour of its own time after its last request.
	sessionIdle = 30 * time.Minute
	// A group keeps at most 4096 answers of a session. One request that waits
	// for a failover must not stop the others: a new session takes over here.
	sessionWindow = 2048
	// Ids leased at a time: from leaseMin, doubling while they are used up within leaseSoon.
	leaseMin  = 64
	leaseMax  = 256
	leaseSoon = 10 * time.Second
)

// slot holds the session that new changes of one group use.
type slot struct {
	cur       atomic.Pointer[session]
	opening   chan struct{} // holds a token while somebody opens a session
	preparing atomic.Bool   // one Prepare at a time
}

// session is one session of a group, with the sequence numbers in use and the
// file ids leased in it.
type session struct {
	group eggs.GroupID
	id    uint64

	mu     sync.Mutex
	next   uint64              // sequence of the next change
	lowest uint64              // none below it is open
	open   map[uint64]struct{} // begun and not ended
	used   time.Time           // when an answer last came
	dead   bool

	ids     []eggs.InodeID // leased and unused
	batch   int            // size of the next lease
	leased  time.Time      // when the last lease came
	leasing chan struct{}  // closed when the lease under way has ended
	leaseEr error          // of the last lease
}

func newSession(g eggs.GroupID, id uint64) *session {
	return &session{
		group: g, id: id, next: 1, lowest: 1, open: make(map[uint64]struct{}),
		used: time.Now(), batch: leaseMin,
	}
}

// begin takes a sequence number. ok is false when the session may take no more.
func (s *session) begin() (sequence, lowest uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead || s.next-s.lowest >= 2*sessionWindow {
		return 0, 0, false
	}
	sequence = s.next
	s.next++
	s.open[sequence] = struct{}{}
	return sequence, s.lowest, true
}

// end says that nobody will ask for that answer again.
func (s *session) end(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sequence)
	for s.lowest < s.next {
		if _, is := s.open[s.lowest]; is {
			break
		}
		s.lowest++
	}
}

func (s *session) answered() {
	s.mu.Lock()
	s.used = time.Now()
	s.mu.Unlock()
}

func (s *session) kill() {
	s.mu.Lock()
	s.dead = true
	s.ids = nil
	s.mu.Unlock()
}

// fresh reports whether new changes may begin in the session.
func (s *session) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.dead && s.next-s.lowest < sessionWindow && time.Since(s.used) < sessionIdle
}

// session returns the current session of a group, and opens one when there is none.
func (c *Client) session(ctx context.Context, g eggs.GroupID) (*session, error) {
	sl := &c.slots[g]
	if s := sl.cur.Load(); s != nil && s.fresh() {
		return s, nil
	}
	select {
	case sl.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, late(ctx, false, nil)
	}
	defer func() { <-sl.opening }()
	if s := sl.cur.Load(); s != nil && s.fresh() {
		return s, nil
	}
	id, err := c.openSession(ctx, g)
	if err != nil {
		return nil, &eggs.Error{Op: "client.OpenSession", Name: g.String(), Err: err}
	}
	s := newSession(g, id)
	sl.cur.Store(s)
	return s, nil
}

// openSession asks for a session. It may be repeated: one more does no harm.
func (c *Client) openSession(ctx context.Context, g eggs.GroupID) (uint64, error) {
	open := &wire.OpenSession{Client: c.id}
	if g == eggs.CDCGroup {
		req := &wire.CdcRequest{Op: &wire.CdcRequest_OpenSession{OpenSession: open}}
		msg, err := c.ask(ctx, g, wire.MethodCdc, req, newCdcReply, cdcRefusal)
		if err != nil {
			return 0, err
		}
		return msg.(*wire.CdcReply).Session, nil
	}
	req := &wire.ShardRequest{
		Shard: uint32(g),
		Verbs: []*wire.Verb{{Verb: &wire.Verb_OpenSession{OpenSession: open}}},
	}
	msg, err := c.ask(ctx, g, wire.MethodShard, req, newShardReply, shardRefusal)
	if err != nil {
		return 0, err
	}
	r, err := resultOf[*wire.Result_SessionOpened](msg.(*wire.ShardReply), 0)
	if err != nil {
		return 0, err
	}
	return r.SessionOpened.Session, nil
}

// Prepare fetches in the background what the first file in dir will need, so
// that making it costs one request. What fails here is met again by Create.
func (c *Client) Prepare(dir eggs.InodeID) {
	if !dir.IsDir() {
		return
	}
	sl := &c.slots[dir.Shard().Group()]
	if s := sl.cur.Load(); s != nil && s.fresh() || !sl.preparing.CompareAndSwap(false, true) {
		return
	}
	if !c.spawn(func() {
		defer sl.preparing.Store(false)
		ctx, cancel := c.limit(c.ctx)
		defer cancel()
		s, err := c.session(ctx, dir.Shard().Group())
		var id eggs.InodeID
		if err == nil {
			id, err = c.takeID(ctx, s)
		}
		if err != nil {
			c.log.Debug("not prepared", "dir", dir, "err", err)
			return
		}
		s.giveID(id)
	}) {
		sl.preparing.Store(false)
	}
}

// takeID returns an unused file id that s has leased. Half a batch before they
// run out the next is asked for, in the background.
func (c *Client) takeID(ctx context.Context, s *session) (eggs.InodeID, error) {
	for {
		s.mu.Lock()
		if s.dead {
			s.mu.Unlock()
			return 0, eggs.E("client.Lease", eggs.BadSession, "")
		}
		if s.leasing == nil && len(s.ids) <= s.batch/2 {
			s.leasing = make(chan struct{})
			if len(s.ids) > 0 && time.Since(s.leased) < leaseSoon {
				s.batch = min(2*s.batch, leaseMax)
			}
			count := s.batch
			if !c.spawn(func() { c.lease(s, count) }) {
				close(s.leasing)
				s.leasing, s.leaseEr = nil, eggs.E("client.Lease", eggs.Canceled, "the client is closed")
				s.mu.Unlock()
				return 0, s.leaseEr
			}
		}
		if n := len(s.ids); n > 0 {
			id := s.ids[n-1]
			s.ids = s.ids[:n-1]
			s.mu.Unlock()
			return id, nil
		}
		wait := s.leasing
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, late(ctx, false, nil)
		}
		s.mu.Lock()
		err := s.leaseEr
		empty := len(s.ids) == 0
		s.mu.Unlock()
		if empty && err != nil {
			return 0, err
		}
	}
}

// giveID returns an id that was never used.
func (s *session) giveID(id eggs.InodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dead && id != 0 {
		s.ids = append(s.ids, id)
	}
}

// lease asks for ids and wakes those who wait for them.
func (c *Client) lease(s *session, count int) {
	verb := &wire.Verb{Verb: &wire.Verb_LeaseIds{LeaseIds: &wire.LeaseIds{Count: uint32(count)}}}
	reply, err := c.shardIn(c.ctx, eggs.ShardID(s.group), s, verb)
	var ids []uint64
	if err == nil {
		var r *wire.Result_IdsLeased
		if r, err = resultOf[*wire.Result_IdsLeased](reply, 0); err == nil {
			ids = r.IdsLeased.Ids
		}
	}
	if err == nil && len(ids) == 0 {
		err = eggs.E("client.Lease", eggs.Corrupt, "a lease without ids")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.ids = append(s.ids, eggs.InodeID(id))
	}
	s.leased = time.Now()
	s.leaseEr = err
	close(s.leasing)
	s.leasing = nil
}
