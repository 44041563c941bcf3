package cdc

import (
	"sort"
	"sync"
	"sync/atomic"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// Machine is the replicated half of the CDC: what every replica does with an
// entry of the log. What it keeps in memory is a cache of the group's keys.
type Machine struct {
	mu        sync.Mutex
	live      map[uint64]*transaction // unfinished, by id
	order     []*transaction          // the same by increasing id, and some that are finished
	byRequest map[requestKey]*transaction
	due       eggs.Time     // no session ends before; apply's own
	begun     chan struct{} // holds a token when a transaction has begun; the engine takes it

	facts   atomic.Pointer[wire.Facts]
	changed atomic.Pointer[chan struct{}] // closed when facts is replaced
}

var _ raftgroup.Machine = (*Machine)(nil)

// NewMachine returns the machine of a group without entries.
func NewMachine() *Machine {
	m := &Machine{begun: make(chan struct{}, 1)}
	m.reset()
	m.facts.Store(&wire.Facts{})
	changed := make(chan struct{})
	m.changed.Store(&changed)
	return m
}

func (m *Machine) reset() {
	m.live = map[uint64]*transaction{}
	m.order = nil
	m.due = 0
	m.byRequest = map[requestKey]*transaction{}
}

// Restored rebuilds the caches from the keys.
func (m *Machine) Restored(r raftgroup.Reader) {
	m.mu.Lock()
	m.reset()
	each(r, prefixTransaction, func(k, v []byte) {
		rec := &wire.CdcTransaction{}
		decode(v, rec)
		m.add(newTransaction(number(k), rec))
	})
	m.mu.Unlock()
	m.wake()
	m.publish(readFacts(r))
}

// Facts returns the durable facts as this replica has applied them. They must
// not be changed.
func (m *Machine) Facts() *wire.Facts { return m.facts.Load() }

// FactsChanged returns a channel that is closed when Facts has changed since this call.
// Take the channel first, then the facts.
func (m *Machine) FactsChanged() <-chan struct{} { return *m.changed.Load() }

func (m *Machine) publish(f *wire.Facts) {
	m.facts.Store(f)
	next := make(chan struct{})
	close(*m.changed.Swap(&next))
}

// add takes a transaction in; m.mu is held. Ids only grow.
func (m *Machine) add(t *transaction) {
	m.live[t.id] = t
	m.order = append(m.order, t)
	m.byRequest[t.request()] = t
}

// wake tells the engine, if there is one, that there may be something to do.
func (m *Machine) wake() {
	select {
	case m.begun <- struct{}{}:
	default:
	}
}

// begin takes in a transaction that an entry began.
func (m *Machine) begin(t *transaction) {
	m.mu.Lock()
	m.add(t)
	m.mu.Unlock()
	m.wake()
}

// end forgets a transaction that an entry finished, and gives its answer to
// those who still wait.
func (m *Machine) end(t *transaction, reply *wire.CdcReply) {
	m.mu.Lock()
	t.finished = true
	delete(m.live, t.id)
	delete(m.byRequest, t.request())
	for len(m.order) > 0 && m.order[0].finished {
		m.order[0] = nil
		m.order = m.order[1:]
	}
	if len(m.order) > 64 && len(m.order) > 4*len(m.live) {
		m.compact()
	}
	m.mu.Unlock()
	t.decide(reply)
}

// compact drops the finished ones that stand behind an unfinished one.
func (m *Machine) compact() {
	kept := make([]*transaction, 0, 2*len(m.live))
	for _, t := range m.order {
		if !t.finished {
			kept = append(kept, t)
		}
	}
	m.order = kept
}

// after lists the unfinished transactions with greater ids, in order.
func (m *Machine) after(id uint64) []*transaction {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := sort.Search(len(m.order), func(i int) bool { return m.order[i].id > id })
	var list []*transaction
	for _, t := range m.order[at:] {
		if !t.finished {
			list = append(list, t)
		}
	}
	return list
}

// oldest is the lowest unfinished transaction.
func (m *Machine) oldest() (*transaction, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.order) == 0 {
		return nil, false
	}
	return m.order[0], true // end keeps an unfinished one in front
}

// unfinished counts.
func (m *Machine) unfinished() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.live)
}

// find returns the unfinished transaction that a request began.
func (m *Machine) find(k requestKey) *transaction {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byRequest[k]
}

// get returns an unfinished transaction.
func (m *Machine) get(id uint64) *transaction {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live[id]
}
