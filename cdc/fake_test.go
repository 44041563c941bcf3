package cdc

import (
	"bytes"
	"context"
	"hash/crc32"
	"slices"
	"sort"
	"sync"
	"testing"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
)

// memory is a raftgroup.Tx, Reader and View over a map.
type memory struct {
	mu   sync.Mutex
	keys map[string][]byte
	list []string          // the keys, sorted
	undo map[string][]byte // what this entry replaced; nil: was absent
}

func newMemory() *memory {
	return &memory{keys: map[string][]byte{}, undo: map[string][]byte{}}
}

func (s *memory) Get(k []byte) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.keys[string(k)]
	return bytes.Clone(v), ok
}

func (s *memory) Scan(lo, hi []byte, reverse bool, f func(k, v []byte) bool) {
	s.mu.Lock()
	at, end := sort.SearchStrings(s.list, string(lo)), len(s.list)
	if hi != nil {
		end = sort.SearchStrings(s.list, string(hi))
	}
	keys := slices.Clone(s.list[at:max(at, end)])
	s.mu.Unlock()
	if reverse {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if v, ok := s.Get([]byte(k)); ok && !f([]byte(k), v) {
			return
		}
	}
}

func (s *memory) put(k, v []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.undo[string(k)]; !ok {
		s.undo[string(k)] = s.keys[string(k)]
	}
	s.write(string(k), v)
}

func (s *memory) write(k string, v []byte) {
	at, found := slices.BinarySearch(s.list, k)
	switch {
	case v == nil && found:
		s.list = slices.Delete(s.list, at, at+1)
	case v != nil && !found:
		s.list = slices.Insert(s.list, at, k)
	}
	if v == nil {
		delete(s.keys, k)
	} else {
		s.keys[k] = v
	}
}

func (s *memory) Set(k, v []byte) { s.put(k, append([]byte{}, v...)) }
func (s *memory) Delete(k []byte) { s.put(k, nil) }
func (s *memory) Close()          {}

func (s *memory) Rollback() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.undo {
		s.write(k, v)
	}
	s.undo = map[string][]byte{}
}

func (s *memory) commit() { clear(s.undo) }

func (s *memory) hash() uint32 {
	sum := crc32.NewIEEE()
	s.Scan(nil, nil, false, func(k, v []byte) bool {
		sum.Write(k)
		sum.Write([]byte{0, 255})
		sum.Write(v)
		return true
	})
	return sum.Sum32()
}

// replica is one node's part of a fake group; it is a Group.
type replica struct {
	g       *fakeGroup
	id      int
	state   *memory
	machine *Machine
	cdc     *CDC
	onLead  func(context.Context)
}

// fakeGroup is a raft group without time and loss: what is proposed on the leader is applied
// by all replicas at once. Leadership moves when the test says so.
type fakeGroup struct {
	mu       sync.Mutex
	replicas []*replica
	leader   int // -1: none
	cancel   context.CancelFunc
	index    uint64
	lose     func() error // what a proposal fails with, or nil; called before it is applied
	work     sync.WaitGroup
}

// newCluster returns n replicas with a CDC each, and makes the first the leader.
func newCluster(t testing.TB, n int, shards Shards, clock func() eggs.Time) *fakeGroup {
	g := &fakeGroup{leader: -1}
	for i := range n {
		r := &replica{g: g, id: i, state: newMemory(), machine: NewMachine()}
		r.machine.Restored(r.state)
		r.cdc = New(Config{Group: r, Machine: r.machine, Shards: shards, Clock: clock})
		g.replicas = append(g.replicas, r)
	}
	g.lead(0)
	t.Cleanup(g.stop)
	return g
}

// lead deposes who leads and makes i the leader; -1 is nobody. The deposed
// one's engine is not waited for.
func (g *fakeGroup) lead(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cancel != nil {
		g.cancel()
		g.cancel = nil
	}
	g.leader = i
	if i < 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	f := g.replicas[i].onLead
	g.work.Go(func() { f(ctx) })
}

func (g *fakeGroup) stop() {
	g.lead(-1)
	g.work.Wait()
}

// restart gives a replica that does not lead a machine that knows only the keys.
func (g *fakeGroup) restart(i int, shards Shards, clock func() eggs.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &replica{g: g, id: i, state: g.replicas[i].state, machine: NewMachine()}
	g.replicas[i] = r // what the old one still does reaches nobody
	r.machine.Restored(r.state)
	r.cdc = New(Config{Group: r, Machine: r.machine, Shards: shards, Clock: clock})
}

// at returns the leader.
func (g *fakeGroup) at() *replica {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.replicas[max(g.leader, 0)]
}

func (r *replica) Leads() bool {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	return r.g.leader == r.id && r.g.replicas[r.id] == r
}

func (r *replica) OnLead(f func(context.Context)) { r.onLead = f }
func (r *replica) Local() raftgroup.View          { return r.state }

func (r *replica) Read(context.Context) (raftgroup.View, error) {
	if !r.Leads() {
		return nil, eggs.E("fake.Read", eggs.NotLeader, "")
	}
	return r.state, nil
}

func (r *replica) Propose(ctx context.Context, data []byte) (any, error) {
	g := r.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.leader != r.id || g.replicas[r.id] != r {
		return nil, eggs.E("fake.Propose", eggs.NotLeader, "")
	}
	if err := ctx.Err(); err != nil {
		return nil, &eggs.Error{Op: "fake.Propose", Kind: eggs.Unavailable, Err: err}
	}
	var lost error
	if g.lose != nil {
		lost = g.lose()
	}
	if eggs.KindOf(lost) == eggs.Unavailable {
		return nil, lost
	}
	g.index++
	var result any
	for _, x := range g.replicas {
		e := raftgroup.Entry{Group: eggs.CDCGroup, Index: g.index, Data: bytes.Clone(data)}
		got := x.machine.Apply(x.state, e)
		x.state.commit()
		if x == r {
			result = got
		}
	}
	return result, lost
}
