package cdc

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
	"eggsfs/raftgroup"
	"eggsfs/raftshard"
	"eggsfs/wire"
)

// realShards are the real metadata shards, each a machine on a map, made when
// first asked. The CDC's room may not know them; its tests show that both
// read the contract alike.
type realShards struct {
	mu     sync.Mutex
	key    *auth.Key
	shards map[eggs.ShardID]*realShard
}

// realShard is a group of one.
type realShard struct {
	mu       sync.Mutex
	id       eggs.ShardID
	state    *memory
	machine  *raftshard.Machine
	shard    *raftshard.Shard
	index    uint64
	session  uint64
	sequence uint64
}

var testKey = sync.OnceValues(auth.NewKey)

func newRealShards(t *testing.T) shardSet {
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	return &realShards{key: key, shards: map[eggs.ShardID]*realShard{}}
}

func (s *realShards) at(id eggs.ShardID) *realShard {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shards[id] == nil {
		x := &realShard{id: id, state: newMemory(), machine: raftshard.NewMachine(id, s.key)}
		s.shards[id] = x
		x.shard = raftshard.New(raftshard.Config{
			Shard: id, Group: x, Machine: x.machine, Key: s.key, Clock: clock,
		})
	}
	return s.shards[id]
}

func (s *realShard) Propose(_ context.Context, data []byte) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	answer := s.machine.Apply(s.state, raftgroup.Entry{
		Group: s.id.Group(), Index: s.index, Data: data,
	})
	s.state.commit()
	return answer, nil
}

func (s *realShard) Read(context.Context) (raftgroup.View, error) { return s.state, nil }
func (s *realShard) Local() raftgroup.View                        { return s.state }
func (s *realShard) Leads() bool                                  { return true }
func (s *realShard) OnLead(f func(context.Context))               { f(context.Background()) }

func (s *realShards) deliver(r *wire.ShardRequest) *wire.ShardReply {
	reply, err := s.at(eggs.ShardID(r.Shard)).shard.Do(context.Background(), r)
	if err != nil {
		panic(err)
	}
	return reply
}

func (s *realShards) query(q *wire.ShardQuery) *wire.ShardAnswer {
	a, err := s.at(eggs.ShardID(q.Shard)).shard.Query(context.Background(), q)
	if err != nil {
		panic(err)
	}
	return a
}

// change sends verbs about a directory as a client does.
func (s *realShards) change(dir uint64, verbs ...*wire.Verb) (*wire.ShardReply, error) {
	x := s.at(eggs.InodeID(dir).Shard())
	s.mu.Lock()
	x.sequence++
	r := &wire.ShardRequest{
		Shard: uint32(x.id), Session: x.session, Sequence: x.sequence, Lowest: 1, Verbs: verbs,
	}
	s.mu.Unlock()
	if r.Session == 0 {
		opened := s.deliver(&wire.ShardRequest{Shard: r.Shard, Verbs: []*wire.Verb{
			{Verb: &wire.Verb_OpenSession{OpenSession: &wire.OpenSession{Client: 9}}},
		}})
		r.Session = opened.Results[0].GetSessionOpened().Session
		s.mu.Lock()
		x.session = r.Session
		s.mu.Unlock()
	}
	reply := s.deliver(r)
	if reply.Error != nil {
		return nil, eggs.Kind(reply.Error.Kind)
	}
	return reply, nil
}

func (s *realShards) link(dir uint64, name string, kind eggs.InodeKind) (uint64, error) {
	if kind == eggs.KindSymlink {
		reply, err := s.change(dir, &wire.Verb{Verb: &wire.Verb_Symlink{
			Symlink: &wire.Symlink{Dir: dir, Name: name, Target: []byte("x")},
		}})
		if err != nil {
			return 0, err
		}
		return reply.Results[0].GetSymlinkMade().Id, nil
	}
	reply, err := s.change(dir,
		&wire.Verb{Verb: &wire.Verb_Construct{Construct: &wire.Construct{Mode: 0o644}}},
		&wire.Verb{Verb: &wire.Verb_LinkFile{LinkFile: &wire.LinkFile{Dir: dir, Name: name}}})
	if err != nil {
		return 0, err
	}
	return reply.Results[0].GetConstructed().Id, nil
}

func (s *realShards) unlink(dir uint64, name string) (uint64, int64, error) {
	_, at := s.picture().lookup(dir, name)
	reply, err := s.change(dir, &wire.Verb{Verb: &wire.Verb_Unlink{
		Unlink: &wire.Unlink{Dir: dir, Name: name},
	}})
	if err != nil {
		return 0, 0, err
	}
	return reply.Results[0].GetUnlinked().Target, at, nil
}

func (s *realShards) within(dir uint64, from, to string) error {
	_, err := s.change(dir, &wire.Verb{Verb: &wire.Verb_Rename{
		Rename: &wire.Rename{Dir: dir, From: from, To: to},
	}})
	return err
}

func (s *realShards) each(f func(x *realShard)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.shards {
		x.mu.Lock()
		f(x)
		x.mu.Unlock()
	}
}

func (s *realShards) faults() (list []string) {
	s.each(func(x *realShard) {
		for _, f := range raftshard.Check(x.state, x.id) {
			list = append(list, fmt.Sprintf("%d: shard %d: %s", f.Invariant, x.id, f.Text))
		}
	})
	return list
}

func u64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// picture reads the shards' keys, which raftshard documents.
func (s *realShards) picture() *namespace {
	m := newNamespace()
	m.dirs = map[uint64]*modelDir{}
	at := func(dir uint64) *modelDir {
		if m.dirs[dir] == nil {
			m.dirs[dir] = newModelDir(0)
		}
		return m.dirs[dir]
	}
	at(uint64(eggs.Root))
	s.each(func(x *realShard) {
		x.state.Scan(nil, nil, false, func(k, v []byte) bool {
			switch k[0] {
			case 'd':
				d, rec := at(u64(k[1:])), &raftshard.DirectoryRecord{}
				decode(v, rec)
				d.owner = rec.Owner
				d.removed = rec.Owner == 0 && u64(k[1:]) != uint64(eggs.Root)
				d.policies = &wire.Policies{}
				decode(rec.Policies, d.policies)
			case 'e':
				rec := &raftshard.EdgeRecord{}
				decode(v, rec)
				at(u64(k[1:])).edges[string(k[17:])] = &modelEdge{rec.Target, rec.Time, rec.Locked}
			case 's':
				d, rec := at(u64(k[1:])), &raftshard.SnapshotRecord{}
				decode(v, rec)
				n := len(k) - 9
				d.past = append(d.past,
					modelPast{string(k[17:n]), rec.Target, int64(u64(k[n+1:])), rec.Owned})
			case 'f':
				m.files[u64(k[1:])] = "linked"
			case 't':
				m.files[u64(k[1:])] = "transient"
			}
			return true
		})
	})
	return m
}
