package cdc

import (
	"fmt"
	"testing"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// scenario is one transaction and what it finds.
type scenario struct {
	name  string
	setup func(w *world) *wire.CdcRequest
	want  eggs.Kind
	steps int // that it takes when nothing goes wrong
}

var scenarios = []scenario{
	{"mkdir", func(w *world) *wire.CdcRequest {
		return mkdir(root, "a")
	}, eggs.Other, 2},
	{"mkdir of a taken name", func(w *world) *wire.CdcRequest {
		w.mkdir(root, "a")
		return mkdir(root, "a")
	}, eggs.Exist, 3},
	{"mkdir over a file", func(w *world) *wire.CdcRequest {
		w.file(root, "a")
		return mkdir(root, "a")
	}, eggs.Exist, 3},
	{"mkdir in a directory that was removed", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.want(w.do(rmdir(root, "d", d)), eggs.Other)
		w.settle()
		return mkdir(d, "a")
	}, eggs.NotExist, 0},
	{"mkdir in a directory that never was", func(w *world) *wire.CdcRequest {
		return mkdir(uint64(eggs.MakeInodeID(eggs.KindDirectory, 99999)), "a")
	}, eggs.NotExist, 0},
	{"rmdir", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		return rmdir(d, "e", w.mkdir(d, "e"))
	}, eggs.Other, 3},
	{"rmdir of whatever is there", func(w *world) *wire.CdcRequest {
		w.mkdir(root, "d")
		return rmdir(root, "d", 0)
	}, eggs.Other, 3},
	{"rmdir of another", func(w *world) *wire.CdcRequest {
		e := w.mkdir(root, "e")
		w.mkdir(root, "d")
		return rmdir(root, "d", e)
	}, eggs.Conflict, 1},
	{"rmdir of nothing", func(w *world) *wire.CdcRequest {
		return rmdir(root, "d", 0)
	}, eggs.NotExist, 1},
	{"rmdir of a file", func(w *world) *wire.CdcRequest {
		w.file(root, "d")
		return rmdir(root, "d", 0)
	}, eggs.NotDir, 2},
	{"rmdir of a full directory", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.file(d, "f")
		return rmdir(root, "d", d)
	}, eggs.NotEmpty, 3},
	{"rename", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.file(root, "a")
		return rename(root, "a", d, "b", false)
	}, eggs.Other, 3},
	{"rename over a file", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.file(root, "a")
		w.file(d, "b")
		return rename(root, "a", d, "b", false)
	}, eggs.Other, 3},
	{"rename of a symlink", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		if _, err := w.link(root, "a", eggs.KindSymlink); err != nil {
			w.t.Fatal(err)
		}
		return rename(root, "a", d, "b", true)
	}, eggs.Other, 3},
	{"rename that would replace", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.file(root, "a")
		w.file(d, "b")
		return rename(root, "a", d, "b", true)
	}, eggs.Exist, 3},
	{"rename over a directory", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.file(root, "a")
		w.mkdir(d, "b")
		return rename(root, "a", d, "b", false)
	}, eggs.IsDir, 3},
	{"rename of a directory", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		w.mkdir(root, "a")
		return rename(root, "a", d, "b", false)
	}, eggs.CrossDir, 2},
	{"rename of nothing", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		return rename(root, "a", d, "b", false)
	}, eggs.NotExist, 1},
	{"hard unlink", func(w *world) *wire.CdcRequest {
		w.file(root, "a")
		id, at, _ := w.unlink(root, "a")
		return unlink(root, "a", id, at)
	}, eggs.Other, 2},
	{"hard unlink of an edge that is not owned", func(w *world) *wire.CdcRequest {
		d := w.mkdir(root, "d")
		id := w.file(root, "a")
		_, at := w.picture().lookup(root, "a")
		w.want(w.do(rename(root, "a", d, "b", false)), eggs.Other)
		return unlink(root, "a", id, at)
	}, eggs.Conflict, 1},
}

// fault is what happens at one step of a transaction, or after it.
type fault struct {
	name string
	set  func(w *world, step int)
}

var faults = []fault{
	{"nothing", func(*world, int) {}},
	// The request is on its way when the leader is deposed. holds delivers it
	// when all is over, which is when a late step does its harm.
	{"the leader falls before step", func(w *world, step int) {
		w.before = func(n int, _ *wire.ShardRequest) error {
			if n == step {
				w.g.lead(1)
				return errLost
			}
			return nil
		}
	}},
	{"the leader falls after step", func(w *world, step int) {
		w.after = func(n int, _ *wire.ShardRequest) error {
			if n == step {
				w.g.lead(1)
				return errLost
			}
			return nil
		}
	}},
	{"the leader falls, with the answer in its hand, after step", func(w *world, step int) {
		w.after = func(n int, _ *wire.ShardRequest) error {
			if n == step {
				w.g.lead(1)
			}
			return nil
		}
	}},
	{"the leader loses its office and wins it back at step", func(w *world, step int) {
		w.after = func(n int, _ *wire.ShardRequest) error {
			if n == step {
				w.g.lead(0)
			}
			return nil
		}
	}},
	{"two leaders fall at step", func(w *world, step int) {
		w.after = func(n int, _ *wire.ShardRequest) error {
			if n == step || n == 2*step {
				w.g.lead((n / step) % 3)
				return errLost
			}
			return nil
		}
	}},
	{"the reply is lost at step", func(w *world, step int) {
		w.after = func(n int, _ *wire.ShardRequest) error {
			if n == step {
				return errLost
			}
			return nil
		}
	}},
	{"the request is lost three times at step", func(w *world, step int) {
		w.before = func(n int, _ *wire.ShardRequest) error {
			if n >= step && n < step+3 {
				return eggs.E("test", eggs.Unavailable, "no way")
			}
			return nil
		}
	}},
	{"every request arrives twice from step", func(w *world, step int) {
		w.after = func(n int, r *wire.ShardRequest) error {
			if n >= step {
				w.deliver(r)
			}
			return nil
		}
	}},
	{"an entry of the log is not known to be committed, at step", func(w *world, step int) {
		n := 0
		w.g.lose = func() error {
			if n++; n == step {
				return errLost
			}
			return nil
		}
	}},
	{"an entry of the log is refused, at step", func(w *world, step int) {
		n := 0
		w.g.lose = func() error {
			if n++; n == step {
				return eggs.E("test", eggs.Unavailable, "no majority")
			}
			return nil
		}
	}},
}

// run plays a scenario under a fault and returns what is there afterwards.
func (sc scenario) run(t *testing.T, w *world, f fault, step int) (dump string, steps int) {
	r := sc.setup(w)
	w.settle()
	w.forget()
	f.set(w, step)
	reply := w.want(w.do(r), sc.want)
	if sc.want == eggs.Other && reply.Id == 0 {
		t.Errorf("no id in %v", reply)
	}
	// The client did not get the answer and asks again, before and after the
	// transaction is logged as finished.
	again := func() {
		second, err := w.try(r)
		for ; err != nil; second, err = w.try(r) {
		}
		if second.Id != reply.Id || kind(second) != kind(reply) || second.Time != reply.Time {
			t.Errorf("answered %v, and on a retry %v", reply, second)
		}
	}
	again()
	w.holds()
	again()
	w.holds()
	return w.picture().dump(), w.steps()
}

// TestCrash plays every transaction and every refusal, with every fault at
// every step: the outcome must be that of the run without a fault, no effect
// may happen twice, and no lock may be left. It is the heart of this room's
// proof: a coordinator is only as good as the leader that takes over from it.
func TestCrash(t *testing.T) {
	quiet := map[string]string{} // what is left without a fault
	for _, sc := range scenarios {
		for _, f := range faults {
			last := sc.steps + 1
			if f.name == "nothing" {
				last = 1
			}
			for step := 1; step <= last; step++ {
				name := fmt.Sprintf("%s/%s %d", sc.name, f.name, step)
				onBoth(t, name, func(t *testing.T, w *world) {
					dump, steps := sc.run(t, w, f, step)
					key := fmt.Sprintf("%s %T", sc.name, w.shardSet)
					if f.name == "nothing" {
						quiet[key] = dump
					}
					if dump != quiet[key] {
						t.Errorf("left\n%s\nwant\n%s", dump, quiet[key])
					}
					if steps != sc.steps {
						t.Errorf("took %d different steps, want %d", steps, sc.steps)
					}
				})
			}
		}
	}
}

// TestAnsweredBeforeDone: the answer goes out before the transaction is logged as
// finished, so the leader may fall in between. The next one must come to the same
// end, though the client has gone on meanwhile.
func TestAnsweredBeforeDone(t *testing.T) {
	onBoth(t, "mkdir, rmdir, mkdir", func(t *testing.T, w *world) {
		d := w.mkdir(root, "d")
		w.g.lead(1)
		w.want(w.do(rmdir(root, "d", d)), eggs.Other)
		w.g.lead(2)
		e := w.mkdir(root, "d")
		if e == d {
			t.Fatal("a directory id was used twice")
		}
		w.g.lead(0)
		w.holds()
		if w.lookup(root, "d") != e {
			t.Fatal("the second directory is not there")
		}
	})
}
