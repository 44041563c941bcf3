package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// How clocks are watched. See docs/adr/0005.
const (
	clockEvery = time.Second      // how often others are asked for their clock
	clockLimit = 10 * time.Second // a clock further from the median is wrong
	clockBack  = 9 * time.Second  // and right again when it is nearer than this
	clockSlow  = 2 * time.Second  // an answer that took longer says too little
	clockOld   = 5 * time.Second  // and one that is older says nothing
	clockLeave = 10 * time.Second // how long one try to give leaderships away may take
)

// clocks is what this node knows of clocks: its own and other nodes'.
type clocks struct {
	file  string       // in tests: holds how far this node's clock is off, in ns
	shift atomic.Int64 // what the file says

	mu      sync.Mutex
	said    map[eggs.NodeID]saidClock
	verdict clockVerdict
}

// saidClock is how far another node's clock was ahead of ours.
type saidClock struct {
	ahead time.Duration
	at    time.Time
}

// clockVerdict is what the clocks that were heard of say.
type clockVerdict struct {
	off    bool          // ours is wrong
	by     time.Duration // by this much ahead of the median, if it is
	unsure bool          // they differ, and there is no majority to tell whose is wrong
	others int           // other nodes whose clocks are wrong
}

// pauses reports whether nothing may be collected: what has expired is not certain.
func (v clockVerdict) pauses() bool { return v.off || v.unsure || v.others > 0 }

// judgeClocks compares our clock with others', given how far those are ahead of it. The median is
// that of all of them, ours included, so that of three nodes the one that is off cannot draw
// another over. With an even number it is everything between the two in the middle: then ours
// is wrong only if it is far from both. was says what was thought of ours before.
func judgeClocks(ahead []time.Duration, was bool) clockVerdict {
	all := append([]time.Duration{0}, ahead...)
	slices.Sort(all)
	lo, hi := all[(len(all)-1)/2], all[len(all)/2]
	limit := clockLimit
	if was {
		limit = clockBack
	}
	v := clockVerdict{unsure: hi-lo > clockLimit}
	switch {
	case lo > limit:
		v.off, v.by = true, -lo
	case hi < -limit:
		v.off, v.by = true, -hi
	}
	for _, d := range ahead {
		if d > hi+clockLimit || d < lo-clockLimit {
			v.others++
		}
	}
	return v
}

// clock is this node's clock: what it writes into entries, and tells others.
func (n *Node) clock() eggs.Time {
	return eggs.TimeOf(time.Now().Add(time.Duration(n.clocks.shift.Load())))
}

// readShift reads the file of a test. One that is not there means that the clock is right.
func (n *Node) readShift() {
	if n.clocks.file == "" {
		return
	}
	b, err := os.ReadFile(n.clocks.file)
	if os.IsNotExist(err) {
		b, err = []byte("0"), nil
	}
	shift, perr := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || perr != nil { // it is just being written
		n.log.Warn("the clock file cannot be read", "path", n.clocks.file, "err", err, "text", string(b))
		return
	}
	n.clocks.shift.Store(shift)
}

// watchClocks asks the other members for their clocks. While ours is wrong this node leads nothing.
func (n *Node) watchClocks(ctx context.Context) {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	var left time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n.readShift()
		n.askClocks(ctx)
		was, is := n.judge()
		switch {
		case is.off && !was.off:
			n.events.add("warn", n.clockProblem(is).What)
			n.host.Abstain(true)
			left = time.Now()
		case !is.off && was.off:
			n.events.add("info", "this node's clock is right again")
			n.host.Abstain(false)
		case is.off && time.Since(left) > clockLeave && n.host.Stats().Leads > 0:
			left = time.Now()
			hctx, cancel := context.WithTimeout(ctx, clockLeave)
			if err := n.host.Handover(hctx); err != nil {
				n.log.Warn("this node's clock is wrong and it still leads", "err", err)
			}
			cancel()
		}
	}
}

// askClocks asks all members at once.
func (n *Node) askClocks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, clockSlow)
	defer cancel()
	var all sync.WaitGroup
	for _, f := range n.router.Facts().GetNodes() {
		id := eggs.NodeID(f.Id)
		if id == n.id {
			continue
		}
		all.Go(func() {
			begin := n.clock()
			m, err := n.client.CallNode(ctx, id, wire.MethodPing, &wire.Ping{},
				func() wire.Message { return &wire.Pong{} })
			end := n.clock()
			pong, ok := m.(*wire.Pong)
			if err != nil || !ok {
				return
			}
			middle := begin + (end-begin)/2
			n.clocks.mu.Lock()
			n.clocks.said[id] = saidClock{time.Duration(eggs.Time(pong.Clock) - middle), time.Now()}
			n.clocks.mu.Unlock()
		})
	}
	all.Wait()
}

// judge makes a new verdict of what was heard lately, and returns the old one and it.
func (n *Node) judge() (was, is clockVerdict) {
	c := &n.clocks
	c.mu.Lock()
	defer c.mu.Unlock()
	var ahead []time.Duration
	for id, s := range c.said {
		if time.Since(s.at) > clockOld {
			delete(c.said, id)
			continue
		}
		ahead = append(ahead, s.ahead)
	}
	was = c.verdict
	c.verdict = judgeClocks(ahead, was.off)
	return was, c.verdict
}

func (n *Node) clockVerdict() clockVerdict {
	n.clocks.mu.Lock()
	defer n.clocks.mu.Unlock()
	return n.clocks.verdict
}

// clockProblem says in words what is wrong with clocks, nil if nothing is known to be.
func (n *Node) clockProblem(v clockVerdict) *wire.Problem {
	me := n.id.String()[:8]
	switch {
	case v.off && v.by > 0:
		return &wire.Problem{
			What:  fmt.Sprintf("the clock of node %s is %v ahead of the others'", me, v.by.Round(time.Second)),
			Doing: "the node leads nothing, and garbage is kept, until its clock is set right",
		}
	case v.off:
		return &wire.Problem{
			What:  fmt.Sprintf("the clock of node %s is %v behind the others'", me, (-v.by).Round(time.Second)),
			Doing: "the node leads nothing, and garbage is kept, until its clock is set right",
		}
	case v.unsure:
		return &wire.Problem{
			What: fmt.Sprintf("the clocks of node %s and of others differ by more than %v, and nobody can tell "+
				"whose is wrong", me, clockLimit),
			Doing: "garbage is kept until they agree; set the clocks",
		}
	}
	return nil
}
