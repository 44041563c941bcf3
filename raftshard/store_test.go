package raftshard

import (
	"context"
	"sort"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
)

// memory is a store in memory: an ordered map, with the writes of one entry
// kept apart until commit.
type memory struct {
	keys []string // sorted
	vals map[string][]byte
	put  map[string][]byte // of the entry; nil: deleted
}

func newMemory() *memory {
	return &memory{vals: map[string][]byte{}, put: map[string][]byte{}}
}

func (m *memory) Get(k []byte) ([]byte, bool) {
	if v, ok := m.put[string(k)]; ok {
		return append([]byte(nil), v...), v != nil
	}
	v, ok := m.vals[string(k)]
	return append([]byte(nil), v...), ok
}

func (m *memory) Set(k, v []byte)   { m.put[string(k)] = append([]byte{}, v...) }
func (m *memory) Delete(k []byte)   { m.put[string(k)] = nil }
func (m *memory) Rollback()         { clear(m.put) }
func (m *memory) Close()            {}
func (m *memory) find(k string) int { return sort.SearchStrings(m.keys, k) }

func (m *memory) Scan(lo, hi []byte, reverse bool, f func(k, v []byte) bool) {
	i, j := m.find(string(lo)), len(m.keys)
	if hi != nil {
		j = max(i, m.find(string(hi)))
	}
	keys := m.keys[i:j]
	if len(m.put) > 0 { // merge the entry's own
		keys = append([]string(nil), keys...)
		for k, v := range m.put {
			if _, ok := m.vals[k]; !ok && v != nil && k >= string(lo) && (hi == nil || k < string(hi)) {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
	}
	for n := range keys {
		k := keys[n]
		if reverse {
			k = keys[len(keys)-1-n]
		}
		v, ok := m.put[k]
		if !ok {
			v = m.vals[k]
		} else if v == nil {
			continue
		}
		if !f([]byte(k), v) {
			return
		}
	}
}

func (m *memory) commit() {
	for k, v := range m.put {
		_, there := m.vals[k]
		switch i := m.find(k); {
		case v == nil && there:
			delete(m.vals, k)
			m.keys = append(m.keys[:i], m.keys[i+1:]...)
		case v != nil:
			if !there {
				m.keys = append(m.keys, "")
				copy(m.keys[i+1:], m.keys[i:])
				m.keys[i] = k
			}
			m.vals[k] = v
		}
	}
	clear(m.put)
}

// lone is a group of one, without a log.
type lone struct {
	mem     *memory
	machine *Machine
	index   uint64
	entries [][]byte // what was applied, when kept
	keep    bool
	follow  bool  // does not lead
	lose    error // the next entry is applied, and its answer lost with this error
}

func (g *lone) Propose(_ context.Context, data []byte) (any, error) {
	if g.follow {
		return nil, &eggs.Error{Op: "raftgroup.Propose", Kind: eggs.NotLeader}
	}
	if g.keep {
		g.entries = append(g.entries, append([]byte(nil), data...))
	}
	g.index++
	res := g.machine.Apply(g.mem, raftgroup.Entry{Index: g.index, Data: data})
	g.mem.commit()
	if err := g.lose; err != nil {
		g.lose = nil
		return nil, err
	}
	return res, nil
}

func (g *lone) Read(context.Context) (raftgroup.View, error) {
	if g.follow {
		return nil, &eggs.Error{Op: "raftgroup.Read", Kind: eggs.NotLeader}
	}
	return g.mem, nil
}
func (g *lone) Local() raftgroup.View              { return g.mem }
func (g *lone) Leads() bool                        { return !g.follow }
func (g *lone) OnLead(f func(ctx context.Context)) { f(context.Background()) }
