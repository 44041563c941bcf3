package cdc

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// world is a cluster of three replicas, the model of the shards, and one
// client's session.
type world struct {
	t *testing.T
	*post
	g        *fakeGroup
	mu       sync.Mutex
	session  uint64
	sequence uint64
	open     map[uint64]bool // sequences without an answer
}

func clock() eggs.Time { return eggs.TimeOf(time.Now()) }

// onBoth plays f twice, on false time: on the model of the shards and on the real ones.
func onBoth(t *testing.T, name string, f func(t *testing.T, w *world)) {
	for _, set := range []struct {
		name string
		make func(*testing.T) shardSet
	}{
		{"model", func(*testing.T) shardSet { return newNamespace() }},
		{"shards", newRealShards},
	} {
		t.Run(name+"/"+set.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, set.make(t))) })
		})
	}
}

func newWorld(t *testing.T, set shardSet) *world {
	w := &world{t: t, post: &post{shardSet: set}, open: map[uint64]bool{}}
	w.g = newCluster(t, 3, w.post, clock)
	reply, err := w.try(&wire.CdcRequest{Op: &wire.CdcRequest_OpenSession{
		OpenSession: &wire.OpenSession{Client: 7},
	}})
	if err != nil || reply.Error != nil || reply.Session == 0 {
		t.Fatalf("open a session: %v, %v", reply, err)
	}
	w.session = reply.Session
	return w
}

// try sends a request once.
func (w *world) try(r *wire.CdcRequest) (*wire.CdcReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return w.g.at().cdc.Do(ctx, r)
}

// number gives a request its place in the session.
func (w *world) number(r *wire.CdcRequest) *wire.CdcRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sequence++
	r.Session, r.Sequence, r.Lowest = w.session, w.sequence, w.sequence
	w.open[w.sequence] = true
	for q := range w.open {
		r.Lowest = min(r.Lowest, q)
	}
	return r
}

// do sends a request as a client does: until there is an answer.
func (w *world) do(r *wire.CdcRequest) *wire.CdcReply { return w.until(w.number(r)) }

// until sends a request that has its number.
func (w *world) until(r *wire.CdcRequest) *wire.CdcReply {
	for range 2000 {
		reply, err := w.try(r)
		if err == nil {
			w.mu.Lock()
			delete(w.open, r.Sequence)
			w.mu.Unlock()
			return reply
		}
		switch eggs.KindOf(err) {
		case eggs.NotLeader, eggs.Unavailable, eggs.Indeterminate, eggs.Busy:
		default:
			w.t.Errorf("%v: %v", r, err)
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Errorf("no answer to %v", r)
	return &wire.CdcReply{Error: refusal("", eggs.Indeterminate, 0, "", "")}
}

const root = uint64(eggs.Root)

func mkdir(dir uint64, name string) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_Mkdir{
		Mkdir: &wire.Mkdir{Dir: dir, Name: name, Mode: 0o755},
	}}
}

func rmdir(dir uint64, name string, target uint64) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_Rmdir{
		Rmdir: &wire.Rmdir{Dir: dir, Name: name, Target: target},
	}}
}

func rename(fromDir uint64, from string, toDir uint64, to string, noReplace bool) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_RenameFile{RenameFile: &wire.RenameFile{
		FromDir: fromDir, From: from, ToDir: toDir, To: to, NoReplace: noReplace,
	}}}
}

func unlink(dir uint64, name string, target uint64, at int64) *wire.CdcRequest {
	return &wire.CdcRequest{Op: &wire.CdcRequest_HardUnlink{HardUnlink: &wire.HardUnlink{
		Dir: dir, Name: name, Target: target, Time: at,
	}}}
}

// lookup answers what a current edge points to, or 0.
func (w *world) lookup(dir uint64, name string) uint64 {
	id, _ := w.picture().lookup(dir, name)
	return id
}

// mkdir makes a directory that must be made.
func (w *world) mkdir(dir uint64, name string) uint64 {
	w.t.Helper()
	reply := w.do(mkdir(dir, name))
	if reply.Error != nil {
		w.t.Fatalf("mkdir %x/%s: %v", dir, name, reply.Error)
	}
	return reply.Id
}

// file links a file that must be linked.
func (w *world) file(dir uint64, name string) uint64 {
	w.t.Helper()
	id, err := w.link(dir, name, eggs.KindFile)
	if err != nil {
		w.t.Fatalf("link %x/%s: %v", dir, name, err)
	}
	return id
}

func kind(r *wire.CdcReply) eggs.Kind { return eggs.Kind(r.GetError().GetKind()) }

// want fails unless the reply is of that kind; Other is success.
func (w *world) want(r *wire.CdcReply, k eggs.Kind) *wire.CdcReply {
	w.t.Helper()
	if kind(r) != k {
		w.t.Fatalf("answered %v, want %v", r, k)
	}
	return r
}

// settle waits until every transaction is finished on every replica.
func (w *world) settle() {
	w.t.Helper()
	for range 10000 {
		left := 0
		w.g.mu.Lock()
		for _, r := range w.g.replicas {
			left += r.machine.unfinished()
		}
		w.g.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatal("transactions do not end")
}

// parents reads the parent map.
func parents(s *memory) map[uint64]uint64 {
	m := map[uint64]uint64{}
	each(s, prefixParent, func(k, v []byte) { m[number(k)] = binary.BigEndian.Uint64(v) })
	return m
}

// holds settles, then fails unless all invariants hold, replicas are equal and nothing
// that is sent again, however late, changes anything.
func (w *world) holds() {
	w.t.Helper()
	w.settle()
	state := w.g.at().state
	now := w.picture()
	if faults := append(now.check(parents(state)), w.faults()...); len(faults) > 0 {
		w.t.Fatalf("broken:\n%s\n%s", strings.Join(faults, "\n"), now.dump())
	}
	for _, f := range Check(state) {
		w.t.Errorf("broken: %d: %s", f.Invariant, f.Text)
	}
	for _, r := range w.g.replicas {
		if r.state.hash() != state.hash() {
			w.t.Errorf("replica %d differs from the leader", r.id)
		}
	}
	before := now.dump()
	for _, r := range w.record {
		w.deliver(r)
	}
	if after := w.picture().dump(); after != before {
		w.t.Fatalf("late requests changed\n%s\nto\n%s", before, after)
	}
}

var errLost = &eggs.Error{
	Op: "test", Kind: eggs.Indeterminate, Err: errors.New("the reply was lost"),
}
