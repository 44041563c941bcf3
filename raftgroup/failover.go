package raftgroup

import (
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"eggsfs/eggs"
)

// watch is the node's pulse: it pings, judges who is down, tells that to the
// others, and sees to groups without a leader. One goroutine does it all, so
// that its judgements agree with each other.
//
// A node is reported down by us when its process is gone (redial refused), or
// when nothing was heard from it for Timers.Silent. Alone that has no
// consequence. A group whose leader is reported down by a majority of the
// group's voters is taken over by one of those, at once; so two nodes that cannot
// see each other and are both seen by a third never depose each other.
type watch struct {
	host *Host
	wake chan struct{} // holds one

	mu     sync.Mutex
	downs  []eggs.NodeID // whom we report down, in order
	agreed []eggs.NodeID // those of them that a majority of the nodes reports down

	// The rest is run's own.
	vacancies [eggs.Groups]vacancy
	lastPass  int64
	nextPing  int64
	nextCare  int64
	nextTable int64
}

func newWatch(h *Host) *watch { return &watch{host: h, wake: make(chan struct{}, 1)} }

// nudge makes the next pass come now. It never blocks.
func (w *watch) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// reports returns whom we report down. The result must not be changed.
func (w *watch) reports() []eggs.NodeID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.downs
}

// care is how often slow things are looked after: balance, stuck replication.
const care = time.Second

// tableTime is how often a node tells its whole table, changed or not.
const tableTime = 10 * time.Second

func (w *watch) run() {
	defer w.host.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.wake:
			time.Sleep(time.Millisecond) // what comes in bursts is handled together
		case <-w.host.ctx.Done():
			return
		}
		timer.Reset(w.pass())
	}
}

// pass looks at everything once and returns when it wants to look again.
func (w *watch) pass() time.Duration {
	h, now := w.host, w.host.now()
	t := &h.cfg.Timers
	peers := h.allPeers()
	if w.lastPass != 0 && now-w.lastPass > int64(2*t.Ping+t.Silent/4) {
		w.excuse(peers, now)
	}
	w.lastPass = now
	news := w.judge(peers, now)
	if now >= w.nextPing || news {
		w.nextPing = now + int64(t.Ping)
		for _, p := range peers {
			p.ping(now)
		}
	}
	w.agree(peers)
	h.spread(peers)
	w.markCut()
	again := min(w.nextPing, w.nextSilent(peers, now))
	for _, g := range h.Groups() {
		if at := w.attend(g, now); at != 0 {
			again = min(again, at)
		}
	}
	if now >= w.nextCare {
		w.nextCare = now + int64(care)
		w.tend(now)
	}
	if now >= w.nextTable { // whatever was lost on the way heals
		w.nextTable = now + int64(tableTime)
		for _, p := range peers {
			p.mu.Lock()
			p.stale = true
			p.mu.Unlock()
		}
	}
	return max(time.Duration(again-h.now()), time.Millisecond)
}

// excuse is called when this process did not run for a while: it was stopped,
// or starved, and what it did not hear in that time is nobody else's fault. Who
// stays silent is judged a little later.
func (w *watch) excuse(peers []*peer, now int64) {
	grace := now - int64(w.host.cfg.Timers.Silent)*3/4
	for _, p := range peers {
		if p.heard.Load() < grace {
			p.heard.Store(grace)
		}
	}
	w.host.log.Warn("this process did not run", "for", time.Duration(now-w.lastPass))
}

// judge decides whom we report down, and returns whether that changed.
func (w *watch) judge(peers []*peer, now int64) bool {
	var downs []eggs.NodeID
	for _, p := range peers {
		if w.isDown(p, now) {
			downs = append(downs, p.id)
		}
	}
	slices.Sort(downs)
	w.mu.Lock()
	old := w.downs
	w.downs = downs
	w.mu.Unlock()
	return !slices.Equal(old, downs)
}

// nextSilent returns when the first peer will have been silent for too long, if it stays so:
// waiting for the next ping would find that out later.
func (w *watch) nextSilent(peers []*peer, now int64) int64 {
	next := now + int64(care)
	for _, p := range peers {
		at := p.heard.Load() + int64(w.host.cfg.Timers.Silent) + int64(time.Millisecond)
		if at > now && at < next {
			next = at
		}
	}
	return next
}

// agree takes note of the nodes that a majority of all nodes reports down.
func (w *watch) agree(peers []*peer) {
	var agreed []eggs.NodeID
	for _, down := range w.downs {
		n := 1
		for _, p := range peers {
			if w.sees(p.id, down) {
				n++
			}
		}
		if n > (len(peers)+1)/2 {
			agreed = append(agreed, down)
		}
	}
	w.mu.Lock()
	news := !slices.Equal(agreed, w.agreed)
	w.agreed = agreed
	w.mu.Unlock()
	if news {
		w.host.leaders.announce()
	}
}

// Down returns the nodes that this one and a majority of all nodes believe to be down, in
// order. It is known a second after a node fell silent, before gossip gives it up. The result
// must not be changed.
func (h *Host) Down() []eggs.NodeID {
	h.watch.mu.Lock()
	defer h.watch.mu.Unlock()
	return h.watch.agreed
}

func (w *watch) isDown(p *peer, now int64) bool {
	t := &w.host.cfg.Timers
	silent := time.Duration(now - p.heard.Load())
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := p.refused && p.link == nil && p.session == nil
	down := gone || silent > t.Silent || p.hinted && silent > t.Silent/2
	if down == p.reported {
		return down
	}
	p.reported = down
	if down {
		if gone { // certain, so there is nothing to be careful about
			p.holdOff = 0
		}
		p.actAfter, p.taken = now+int64(p.holdOff), false
		w.host.log.Info("node is down", "node", p.id, "refused", gone, "silent", silent)
	} else {
		w.host.log.Info("node is back", "node", p.id)
	}
	return down
}

// ping sends heartbeats that wait, and a ping that also tells our reports. A
// connection on which nothing came back for long is given up.
func (p *peer) ping(now int64) {
	p.mu.Lock()
	l, beats, stale, want := p.link, p.beats, p.stale, p.want
	p.beats, p.want = nil, false
	if l != nil {
		p.stale = false
	}
	p.mu.Unlock()
	if l == nil {
		return
	}
	if now-p.acked.Load() > int64(p.host.cfg.Timers.Hung) {
		p.host.log.Warn("giving up a connection that is silent", "node", p.id)
		l.out.close()
		return
	}
	l.expire(now)
	if stale {
		p.host.sendTable(l.out)
	}
	for len(beats) > 0 {
		part := beats[:min(len(beats), 4*eggs.Groups)]
		beats = beats[len(part):]
		err := l.out.put(frameBeats, 0, 0, false, func(b []byte) []byte {
			b = binary.LittleEndian.AppendUint16(b, uint16(len(part)))
			for _, x := range part {
				b = binary.LittleEndian.AppendUint16(b, uint16(x.group))
				b = appendU64(b, x.id, x.term)
			}
			return b
		})
		if err != nil { // their calls expire, or end with the connection
			break
		}
	}
	_ = l.call(framePing, 0, p.host.cfg.Timers.Hung, false,
		func(b []byte) []byte { return p.host.appendNews(b, want) },
		func(body []byte, err error) {
			if err != nil {
				return
			}
			if _, err := p.host.takeNews(p, body); err != nil {
				l.out.close()
				return
			}
			if want { // its table came before its answer
				p.toldAt.Store(now)
				p.host.watch.nudge()
			}
		})
}

// informed reports whether everyone we are in contact with among voters has told
// us its table a moment ago, and asks those that have not.
func (w *watch) informed(voters []eggs.NodeID, now int64) bool {
	all := true
	for _, n := range voters {
		p := w.known(n)
		if p == nil || !p.contact() || now-p.toldAt.Load() < int64(w.host.cfg.Timers.Silent)/2 {
			continue
		}
		all = false
		p.mu.Lock()
		first := !p.want && now-p.askedAt > int64(w.host.cfg.Timers.Ping)
		if first {
			p.want, p.askedAt = true, now
		}
		p.mu.Unlock()
		if first {
			p.ping(now)
		}
	}
	return all
}

// view is what one voter's situation looks like from here.
func (w *watch) sees(n, down eggs.NodeID) bool {
	if n == w.host.cfg.Node {
		return slices.Contains(w.downs, down) // run's goroutine is the only writer
	}
	p := w.known(n)
	if p == nil || !p.contact() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := w.host.now()-p.downsAt < int64(w.host.cfg.Timers.Silent)
	return fresh && slices.Contains(p.downs, down)
}

// known returns a peer without beginning to dial it.
func (w *watch) known(n eggs.NodeID) *peer {
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	return w.host.peers[n]
}

// inContact reports whether we and n hear each other; n may be ourselves.
func (w *watch) inContact(n eggs.NodeID) bool {
	if n == w.host.cfg.Node {
		return true
	}
	p := w.known(n)
	return p != nil && p.contact()
}

// markCut marks the groups that we lead without contact to a majority. Their
// callers are told so at once, while raft itself would let them wait.
func (w *watch) markCut() {
	for _, g := range w.host.Groups() {
		if g.lead.Load() == nil {
			continue
		}
		m := g.members()
		n := 0
		for _, v := range m.voters {
			if w.inContact(v) {
				n++
			}
		}
		cut := n < m.quorum()
		if g.cut.Swap(cut) != cut {
			w.host.log.Info("contact to a majority", "group", g.id, "lost", cut)
		}
	}
}
