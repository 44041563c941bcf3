package cdc

import (
	"context"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// engine runs the unfinished transactions during one leadership, from their
// first step: what was decided before repeats itself, see "Replay" in doc.go.
type engine struct {
	ctx context.Context // ends with the leadership
	c   *CDC

	mu       sync.Mutex
	queues   map[touched][]*ticket // who works on a thing, first, and who waits for it
	running  int
	queued   int
	finished uint64          // since this leadership began
	outbox   []*wire.CdcDone // finished and not yet logged
	full     chan struct{}   // holds a token when outbox has a whole entry's worth
	some     chan struct{}   // holds a token when outbox is not empty
	work     sync.WaitGroup
}

// ticket is a transaction's place in the queues.
type ticket struct {
	t    *transaction
	wait int // queues in which it is not first
}

func newEngine(ctx context.Context, c *CDC) *engine {
	return &engine{
		ctx: ctx, c: c,
		queues: map[touched][]*ticket{},
		full:   make(chan struct{}, 1),
		some:   make(chan struct{}, 1),
	}
}

// run admits transactions in the order of the log until the leadership ends,
// and returns when nothing of this engine runs any more.
func (e *engine) run() {
	e.work.Go(e.report)
	var last uint64
	for {
		for _, t := range e.c.machine.after(last) {
			e.admit(t)
			last = t.id
		}
		select {
		case <-e.c.machine.begun:
		case <-e.ctx.Done():
			e.work.Wait()
			e.c.machine.wake() // the token may have been meant for the next engine
			return
		}
	}
}

// room refuses a request whose queue is full, before anything is proposed.
func (e *engine) room(r *wire.CdcRequest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range touches(r, 0) {
		if len(e.queues[x]) >= maxQueue {
			return &eggs.Error{
				Op: "cdc.Do", Inode: eggs.InodeID(x.dir), Name: x.name, Kind: eggs.Busy,
			}
		}
	}
	return nil
}

// admit puts a transaction at the end of its queues. All queues are joined at
// once and in the order of the log, so nobody waits in a circle.
func (e *engine) admit(t *transaction) {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := &ticket{t: t}
	for _, x := range t.touches() {
		if len(e.queues[x]) > 0 {
			k.wait++
		}
		e.queues[x] = append(e.queues[x], k)
	}
	if k.wait > 0 {
		e.queued++
		return
	}
	e.start(k)
}

// start runs a transaction that is first in all its queues; e.mu is held.
func (e *engine) start(k *ticket) {
	e.running++
	e.work.Go(func() {
		reply, ok := e.perform(k.t)
		if ok && e.ctx.Err() == nil {
			e.finish(k, reply)
		}
	})
}

// perform runs a transaction's steps. It reports false when the leadership
// ended before an answer was reached.
func (e *engine) perform(t *transaction) (*wire.CdcReply, bool) {
	s := &steps{e: e, t: t}
	switch op := t.rec.Request.Op.(type) {
	case *wire.CdcRequest_Mkdir:
		return s.mkdir(op.Mkdir)
	case *wire.CdcRequest_Rmdir:
		return s.rmdir(op.Rmdir)
	case *wire.CdcRequest_RenameFile:
		return s.renameFile(op.RenameFile)
	case *wire.CdcRequest_HardUnlink:
		return s.hardUnlink(op.HardUnlink)
	}
	return refused("cdc.Do", eggs.Unsupported, 0, "", "an operation of a later version"), true
}

// finish acknowledges a transaction, lets those behind it run, and leaves its
// done to be logged in company.
func (e *engine) finish(k *ticket, reply *wire.CdcReply) {
	k.t.decide(reply)
	if k.t.reply.GetError().GetKind() != reply.GetError().GetKind() {
		e.c.log.Error("a transaction was decided twice, differently",
			"transaction", k.t.id, "first", k.t.reply, "second", reply)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running--
	e.finished++
	for _, x := range k.t.touches() {
		e.leave(x)
	}
	e.outbox = append(e.outbox, &wire.CdcDone{Transaction: k.t.id, Reply: k.t.reply})
	token(e.some)
	if len(e.outbox) >= maxDone {
		token(e.full)
	}
}

// leave takes the first of a queue away and starts the next if that was all it
// waited for; e.mu is held.
func (e *engine) leave(x touched) {
	q := e.queues[x][1:]
	if len(q) == 0 {
		delete(e.queues, x)
		return
	}
	e.queues[x] = q
	if q[0].wait--; q[0].wait == 0 {
		e.queued--
		e.start(q[0])
	}
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// report logs finished transactions, many in one entry.
func (e *engine) report() {
	for {
		select {
		case <-e.some:
		case <-e.ctx.Done():
			return
		}
		delay := time.NewTimer(doneDelay)
		select {
		case <-delay.C:
		case <-e.full:
			delay.Stop()
		case <-e.ctx.Done():
			delay.Stop()
			return
		}
		for e.reportSome() {
		}
	}
}

// reportSome logs one entry's worth, however often it takes, and reports
// whether another whole entry's worth is there. Saying it twice does no harm.
func (e *engine) reportSome() bool {
	e.mu.Lock()
	n := min(len(e.outbox), maxDone)
	entry := &wire.CdcEntry{Version: formatVersion, Done: e.outbox[:n:n]}
	e.outbox = e.outbox[n:]
	left := len(e.outbox)
	e.mu.Unlock()
	if n == 0 {
		return false
	}
	pause := firstPause
	for {
		entry.Clock = int64(e.c.clock())
		_, err := e.c.group.Propose(e.ctx, encode(entry))
		switch {
		case e.ctx.Err() != nil:
			return false
		case err == nil:
			if left > 0 {
				token(e.some)
			}
			return left >= maxDone
		}
		e.c.log.Warn("finished transactions can't be logged", "count", n, "error", err)
		if !sleep(e.ctx, pause) {
			return false
		}
		pause = min(2*pause, lastPause)
	}
}

// sleep waits, and reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
