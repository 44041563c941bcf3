package cdc

import (
	"fmt"
	"sort"
	"strings"
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// namespace is a simple model of the 256 shards: what the CDC's verbs and some
// of the clients' do, with each shard's memory of fenced steps.
type namespace struct {
	mu     sync.Mutex
	time   int64
	nextID uint64
	dirs   map[uint64]*modelDir
	files  map[uint64]string // "linked" or "transient"
	fences map[uint32]*fence // by shard
}

type modelDir struct {
	owner    uint64
	removed  bool
	own      *wire.Policies
	policies *wire.Policies // taken along
	edges    map[string]*modelEdge
	past     []modelPast
}
type modelEdge struct {
	target uint64
	time   int64
	lock   uint64
}
type modelPast struct {
	name   string
	target uint64
	time   int64
	owned  bool
}
type fence struct {
	mark   uint64
	memory map[uint64]map[uint32]*wire.ShardReply
}

func newNamespace() *namespace {
	return &namespace{
		nextID: 1000,
		dirs:   map[uint64]*modelDir{uint64(eggs.Root): newModelDir(0)},
		files:  map[uint64]string{},
		fences: map[uint32]*fence{},
	}
}

func newModelDir(owner uint64) *modelDir {
	return &modelDir{owner: owner, edges: map[string]*modelEdge{}}
}

// deliver is the arrival of a request at its shard.
func (m *namespace) deliver(r *wire.ShardRequest) *wire.ShardReply {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fences[r.Shard]
	if f == nil {
		f = &fence{memory: map[uint64]map[uint32]*wire.ShardReply{}}
		m.fences[r.Shard] = f
	}
	x := r.Fence
	if x.Oldest > f.mark {
		f.mark = x.Oldest
		for t := range f.memory {
			if t < f.mark {
				delete(f.memory, t)
			}
		}
	}
	if reply := f.memory[x.Transaction][x.Step]; reply != nil {
		return reply
	}
	if x.Transaction < f.mark {
		return &wire.ShardReply{Error: refusal("model.Do", eggs.Stale, 0, "", "")}
	}
	m.time++
	result, no := m.verb(r, x.Transaction)
	reply := &wire.ShardReply{Error: no, Time: m.time}
	if no == nil {
		reply.Results = []*wire.Result{result}
	}
	if f.memory[x.Transaction] == nil {
		f.memory[x.Transaction] = map[uint32]*wire.ShardReply{}
	}
	f.memory[x.Transaction][x.Step] = reply
	return reply
}

func deny(kind eggs.Kind, dir uint64, name string) (*wire.Result, *wire.Error) {
	return nil, refusal("model.Do", kind, dir, name, "")
}

var empty = &wire.Result{Result: &wire.Result_Empty{Empty: &wire.Empty{}}}

func (m *namespace) at(r *wire.ShardRequest, id uint64) {
	if s := eggs.InodeID(id).Shard(); uint32(s) != r.Shard {
		panic(fmt.Sprintf("a verb about %x came to shard %d", id, r.Shard))
	}
}

func (m *namespace) verb(r *wire.ShardRequest, txn uint64) (*wire.Result, *wire.Error) {
	switch v := r.Verbs[0].Verb.(type) {
	case *wire.Verb_CreateDirectory:
		op := v.CreateDirectory
		m.at(r, op.Id)
		if m.dirs[op.Id] != nil {
			return deny(eggs.Exist, op.Id, "")
		}
		m.dirs[op.Id] = newModelDir(op.Owner)
		return empty, nil
	case *wire.Verb_UncreateDirectory:
		op := v.UncreateDirectory
		m.at(r, op.Id)
		if d := m.dirs[op.Id]; d == nil || len(d.edges) > 0 || len(d.past) > 0 {
			return deny(eggs.Conflict, op.Id, "")
		}
		delete(m.dirs, op.Id)
		return empty, nil
	case *wire.Verb_CreateEdge:
		m.at(r, v.CreateEdge.Dir)
		return m.createEdge(v.CreateEdge)
	case *wire.Verb_LockEdge:
		op := v.LockEdge
		m.at(r, op.Dir)
		e, no := m.edge(op.Dir, op.Name, op.Target)
		switch {
		case no != nil:
			return nil, no
		case e.lock != 0 && e.lock != txn:
			return deny(eggs.Locked, op.Dir, op.Name)
		}
		e.lock = txn
		return seen(e.target, e.time, 0), nil
	case *wire.Verb_UnlockEdge:
		m.at(r, v.UnlockEdge.Dir)
		return m.unlockEdge(v.UnlockEdge, txn)
	case *wire.Verb_RemoveOwner:
		op := v.RemoveOwner
		m.at(r, op.Dir)
		d := m.dirs[op.Dir]
		switch {
		case d == nil || d.removed:
			return deny(eggs.NotExist, op.Dir, "")
		case len(d.edges) > 0:
			return deny(eggs.NotEmpty, op.Dir, "")
		}
		d.removed = true
		d.policies = &wire.Policies{}
		fill(d.policies, d.own)
		fill(d.policies, op.Inherited)
		removed := &wire.OwnerRemoved{Owner: d.owner}
		return &wire.Result{Result: &wire.Result_OwnerRemoved{OwnerRemoved: removed}}, nil
	case *wire.Verb_RemoveEdge:
		op := v.RemoveEdge
		m.at(r, op.Dir)
		d := m.dirs[op.Dir]
		if d == nil {
			return deny(eggs.NotExist, op.Dir, "")
		}
		for i, p := range d.past {
			if p == (modelPast{op.Name, op.Target, op.Time, true}) {
				d.past = append(d.past[:i:i], d.past[i+1:]...)
				return empty, nil
			}
		}
		return deny(eggs.Conflict, op.Dir, op.Name)
	case *wire.Verb_MakeTransient:
		m.at(r, v.MakeTransient.File)
		if m.files[v.MakeTransient.File] != "" {
			m.files[v.MakeTransient.File] = "transient"
		}
		return empty, nil
	}
	return deny(eggs.Invalid, 0, "")
}

func seen(target uint64, time int64, replaced uint64) *wire.Result {
	e := &wire.EdgeSeen{Target: target, Time: time, Replaced: replaced}
	return &wire.Result{Result: &wire.Result_EdgeSeen{EdgeSeen: e}}
}

func (m *namespace) edge(dir uint64, name string, target uint64) (*modelEdge, *wire.Error) {
	d := m.dirs[dir]
	if d == nil || d.removed || d.edges[name] == nil {
		return nil, refusal("model.Do", eggs.NotExist, dir, name, "")
	}
	e := d.edges[name]
	if target != 0 && e.target != target {
		return nil, refusal("model.Do", eggs.Conflict, dir, name, "")
	}
	return e, nil
}

func (m *namespace) createEdge(op *wire.CreateEdge) (*wire.Result, *wire.Error) {
	d := m.dirs[op.Dir]
	switch {
	case d == nil:
		return deny(eggs.NotExist, op.Dir, "")
	case d.removed:
		return deny(eggs.ReadOnly, op.Dir, "")
	}
	var replaced uint64
	if e := d.edges[op.Name]; e != nil {
		switch {
		case e.lock != 0:
			return deny(eggs.Locked, op.Dir, op.Name)
		case !op.ReplaceFile || eggs.InodeID(e.target).IsDir():
			return deny(eggs.Exist, op.Dir, op.Name)
		}
		replaced = e.target
		d.past = append(d.past, modelPast{op.Name, e.target, e.time, true})
	}
	d.edges[op.Name] = &modelEdge{target: op.Target, time: m.time}
	return seen(op.Target, m.time, replaced), nil
}

func (m *namespace) unlockEdge(op *wire.UnlockEdge, txn uint64) (*wire.Result, *wire.Error) {
	e, no := m.edge(op.Dir, op.Name, op.Target)
	switch {
	case no != nil:
		return nil, no
	case e.lock != txn:
		return deny(eggs.Conflict, op.Dir, op.Name)
	}
	e.lock = 0
	if op.Moved {
		d := m.dirs[op.Dir]
		delete(d.edges, op.Name)
		d.past = append(d.past, modelPast{op.Name, e.target, e.time, false},
			modelPast{op.Name, 0, m.time, false})
	}
	return empty, nil
}

// query answers Stat.
func (m *namespace) query(q *wire.ShardQuery) *wire.ShardAnswer {
	m.mu.Lock()
	defer m.mu.Unlock()
	attrs := &wire.Attrs{}
	for _, id := range q.GetStat().GetIds() {
		a := &wire.Attr{}
		if d := m.dirs[id]; d != nil {
			a = &wire.Attr{Id: id, Owner: d.owner, Removed: d.removed, Policies: d.own}
		}
		attrs.Attrs = append(attrs.Attrs, a)
	}
	return &wire.ShardAnswer{Answer: &wire.ShardAnswer_Stat{Stat: attrs}}
}

// The clients' own verbs, without sessions.

// link makes a file, or with id 0 an id for it, and its edge.
func (m *namespace) link(dir uint64, name string, kind eggs.InodeKind) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.time++
	m.nextID++
	id := uint64(eggs.MakeInodeID(kind, m.nextID))
	if _, no := m.createEdge(&wire.CreateEdge{
		Dir: dir, Name: name, Target: id, ReplaceFile: true,
	}); no != nil {
		return 0, eggs.Kind(no.Kind)
	}
	m.files[id] = "linked"
	return id, nil
}

// unlink makes an owned past version; it answers that one's time.
func (m *namespace) unlink(dir uint64, name string) (uint64, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.time++
	e, no := m.edge(dir, name, 0)
	switch {
	case no != nil:
		return 0, 0, eggs.Kind(no.Kind)
	case e.lock != 0:
		return 0, 0, eggs.Locked
	case eggs.InodeID(e.target).IsDir():
		return 0, 0, eggs.IsDir
	}
	d := m.dirs[dir]
	delete(d.edges, name)
	d.past = append(d.past, modelPast{name, e.target, e.time, true},
		modelPast{name, 0, m.time, false})
	return e.target, e.time, nil
}

func (m *namespace) within(dir uint64, from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.time++
	e, no := m.edge(dir, from, 0)
	switch {
	case no != nil:
		return eggs.Kind(no.Kind)
	case e.lock != 0:
		return eggs.Locked
	case from == to:
		return nil
	}
	if _, no = m.createEdge(&wire.CreateEdge{
		Dir: dir, Name: to, Target: e.target, ReplaceFile: !eggs.InodeID(e.target).IsDir(),
	}); no != nil {
		return eggs.Kind(no.Kind)
	}
	d := m.dirs[dir]
	delete(d.edges, from)
	d.past = append(d.past, modelPast{from, e.target, e.time, false})
	return nil
}

func (m *namespace) picture() *namespace { return m }
func (m *namespace) faults() []string    { return nil }

// lookup answers what a current edge points to, or 0, and when it was made.
func (m *namespace) lookup(dir uint64, name string) (uint64, int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, no := m.edge(dir, name, 0); no == nil {
		return e.target, e.time
	}
	return 0, 0
}

// dump prints all that there is but times, in a fixed order.
func (m *namespace) dump() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for id, d := range m.dirs {
		state := fmt.Sprintf("under %x", d.owner)
		if d.removed {
			state = "removed"
		}
		lines = append(lines, fmt.Sprintf("dir %x %s", id, state))
		for name, e := range d.edges {
			lock := ""
			if e.lock != 0 {
				lock = fmt.Sprintf(" locked by %d", e.lock)
			}
			lines = append(lines, fmt.Sprintf("edge %x/%s = %x%s", id, name, e.target, lock))
		}
		for i, p := range d.past {
			lines = append(lines, fmt.Sprintf("past %x #%d %s = %x owned=%v",
				id, i, p.name, p.target, p.owned))
		}
	}
	for id, state := range m.files {
		lines = append(lines, fmt.Sprintf("file %x %s", id, state))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}

// check runs, when all is quiet, the invariants that span shards: 6, 7, 8, 9, 12, 13,
// and with the CDC's keys 10.
func (m *namespace) check(parents map[uint64]uint64) (faults []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bad := func(n int, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%d: ", n)+fmt.Sprintf(format, args...))
	}
	owning, pointing := map[uint64]int{}, map[uint64]int{}
	for id, d := range m.dirs {
		if d.removed && len(d.edges) > 0 {
			bad(2, "removed directory %x has entries", id)
		}
		if p := d.policies; d.removed &&
			(p.Snapshot == nil || p.Span == nil || p.Stripe == nil || p.Inline == nil) {
			bad(13, "removed directory %x lacks a policy", id)
		}
		for name, e := range d.edges {
			if e.lock != 0 {
				bad(12, "%x/%s is locked by %d", id, name, e.lock)
			}
			owning[e.target]++
			if eggs.InodeID(e.target).IsDir() {
				t := m.dirs[e.target]
				if t == nil || t.removed || t.owner != id {
					bad(8, "%x/%s points to %x, which says %+v", id, name, e.target, t)
				}
				pointing[e.target]++
			} else if m.files[e.target] != "linked" {
				bad(7, "%x/%s points to a file that is %q", id, name, m.files[e.target])
			}
		}
		for _, p := range d.past {
			if p.owned {
				owning[p.target]++
			}
		}
	}
	for id, d := range m.dirs {
		if id != uint64(eggs.Root) && !d.removed && pointing[id] != 1 {
			bad(8, "directory %x has %d edges", id, pointing[id])
		}
		parent, ok := parents[id]
		switch {
		case id == uint64(eggs.Root):
		case d.removed && ok:
			bad(10, "removed directory %x is in the parent map", id)
		case !d.removed && parent != d.owner:
			bad(10, "directory %x lies in %x and the map says %x", id, d.owner, parent)
		}
	}
	for id := range parents {
		if d := m.dirs[id]; d == nil {
			bad(10, "the parent map has %x, which is not there", id)
		}
	}
	for id, state := range m.files {
		if want := map[string]int{"linked": 1, "transient": 0}[state]; owning[id] != want {
			bad(6, "%s file %x has %d owning edges", state, id, owning[id])
		}
	}
	return faults
}
