package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"eggsfs/eggs"
	"eggsfs/gossip"
	"eggsfs/wire"
)

// Limits of retirement.
const (
	retireEvery = time.Second // how often silence is looked for
	retireRetry = 5 * time.Second
	// silentGrace is how long a disk may be out of sight and nothing be said: a node restarts.
	silentGrace   = 10 * time.Second
	retireDefault = time.Hour // how long a disk may be silent, unless the facts say otherwise
	// retireSettle is how long the coordinator's leader looks before it decides: gossip may
	// not have told it of everybody yet. A shorter retire-after shortens it too.
	retireSettle = time.Minute
)

// silence is what a decision about silent disks is made from.
type silence struct {
	facts  *wire.Facts
	served map[uint64]bool // disks that a living node serves
	alive  map[uint64]bool // nodes
	now    eggs.Time
	since  eggs.Time // when this node began to lead the coordinator
	// unserved is since when this leader has seen a disk served by no living node.
	unserved map[uint64]eggs.Time
	need     int // disks that a span needs
}

// verdict is one decision about a disk, with words for people.
type verdict struct {
	disk        *wire.DiskFact
	mask        uint32
	level, text string
	version     uint64 // of the facts
}

// The bits of PutDisk.mask.
const (
	maskRetired = 4
	maskSilent  = 16
)

// retireAfter is how long a disk may be silent; negative: for ever.
func retireAfter(f *wire.Facts) time.Duration {
	if f.GetRetireAfterNs() == 0 {
		return retireDefault
	}
	return time.Duration(f.GetRetireAfterNs())
}

// decide returns the next decision about a silent disk, nil when there is none.
// hold says in words why a disk that is due is not retired; "" when none is.
//
// The guards: not before this leader has looked for retireSettle; not without a
// majority of the members in sight, since then it may be we that are cut off;
// disks of one failure domain only, until those of another have been gone for as long again, so that repair
// has had its time; and not when fewer disks would be left than a span needs.
func (s *silence) decide() (v *verdict, hold string) {
	after := retireAfter(s.facts)
	if v := s.mark(after); v != nil || after < 0 {
		return v, ""
	}
	var due []*wire.DiskFact
	for _, d := range s.facts.GetDisks() {
		if !d.Retired && d.SilentSince != 0 && !s.served[d.Id] && s.now-eggs.Time(d.SilentSince) >= eggs.Time(after) {
			due = append(due, d)
		}
	}
	if len(due) == 0 {
		return nil, ""
	}
	slices.SortFunc(due, func(a, b *wire.DiskFact) int {
		return cmp.Or(cmp.Compare(a.SilentSince, b.SilentSince), cmp.Compare(a.Id, b.Id))
	})
	if s.now-s.since < eggs.Time(min(retireSettle, after)) {
		return nil, "" // soon
	}
	if seen, all := s.members(); 2*seen <= all {
		return nil, fmt.Sprintf("disk %s is silent, but only %d of %d nodes are in sight",
			shortDisk(due[0].Id), seen, all)
	}
	if left := s.usable(); left < s.need {
		return nil, fmt.Sprintf("disk %s is silent, but only %d disks are left and a span needs %d: add disks",
			shortDisk(due[0].Id), left, s.need)
	}
	for _, d := range due {
		if other := s.recent(domainOf(s.facts, d.Node), after); other != nil {
			hold = fmt.Sprintf("disk %s is silent, but disk %s of another failure domain was retired %s ago",
				shortDisk(d.Id), shortDisk(other.Id), age(s.now, other.RetiredAt))
			continue
		}
		why := fmt.Sprintf("silent since %s", eggs.Time(d.SilentSince).Std().UTC().Format(time.RFC3339))
		return &verdict{
			disk: &wire.DiskFact{Id: d.Id, Retired: true, Why: why}, mask: maskRetired, level: "warn",
			text: fmt.Sprintf("disk %s of node %s is retired for ever: no node has served it for %s; what was on it "+
				"is rebuilt from parity", shortDisk(d.Id), eggs.NodeID(d.Node).String()[:8], age(s.now, d.SilentSince)),
		}, ""
	}
	return nil, hold
}

func age(now eggs.Time, since int64) time.Duration {
	return time.Duration(int64(now) - since).Round(time.Second)
}

func shortDisk(id uint64) string { return eggs.DiskID(id).String()[:8] }

// mark returns the decision that a disk is silent, or is not any more.
func (s *silence) mark(after time.Duration) *verdict {
	for _, d := range s.facts.GetDisks() {
		switch {
		case d.Retired:
		case s.served[d.Id] && d.SilentSince != 0:
			return &verdict{
				disk: &wire.DiskFact{Id: d.Id}, mask: maskSilent, level: "info",
				text: fmt.Sprintf("disk %s serves again after %s", shortDisk(d.Id), age(s.now, d.SilentSince)),
			}
		case !s.served[d.Id] && d.SilentSince == 0 && s.longUnserved(d.Id):
			then := "it is not retired by itself"
			if after >= 0 {
				then = fmt.Sprintf("it is retired if that lasts for %s", after)
			}
			return &verdict{
				disk: &wire.DiskFact{Id: d.Id, SilentSince: int64(s.unserved[d.Id])}, mask: maskSilent, level: "warn",
				text: fmt.Sprintf("no living node serves disk %s of node %s; %s",
					shortDisk(d.Id), eggs.NodeID(d.Node).String()[:8], then),
			}
		}
	}
	return nil
}

// longUnserved reports whether nobody has served a disk for silentGrace, as far as this leader saw.
func (s *silence) longUnserved(disk uint64) bool {
	since, ok := s.unserved[disk]
	return ok && s.now-since >= eggs.Time(silentGrace)
}

// look notes which disks are served by no living node, and since when.
func (s *silence) look() {
	for _, d := range s.facts.GetDisks() {
		_, known := s.unserved[d.Id]
		switch {
		case s.served[d.Id]:
			delete(s.unserved, d.Id)
		case !known:
			s.unserved[d.Id] = s.now
		}
	}
}

// members counts the nodes that belong, and those of them that are alive.
func (s *silence) members() (seen, all int) {
	for _, n := range s.facts.GetNodes() {
		if n.Removed || n.Lost {
			continue
		}
		if all++; s.alive[n.Id] {
			seen++
		}
	}
	return seen, all
}

// usable counts the disks that blocks may go to.
func (s *silence) usable() (n int) {
	for _, d := range s.facts.GetDisks() {
		if s.served[d.Id] && !d.Retired && !d.Draining && !d.NoWrite {
			n++
		}
	}
	return n
}

// recent returns a disk of another domain that was retired less than after ago for having been silent.
func (s *silence) recent(domain string, after time.Duration) *wire.DiskFact {
	for _, d := range s.facts.GetDisks() {
		if d.Retired && d.SilentSince != 0 && s.now-eggs.Time(d.RetiredAt) < eggs.Time(after) &&
			domainOf(s.facts, d.Node) != domain {
			return d
		}
	}
	return nil
}

func domainOf(f *wire.Facts, node uint64) string {
	if n := factOfNode(f, eggs.NodeID(node)); n != nil && n.Domain != "" {
		return n.Domain
	}
	return eggs.NodeID(node).String()
}

// retire watches for disks that no living node serves while this node leads the
// coordinator. It starts when the node serves, so all that it asks is open.
func (n *Node) retire(ctx context.Context) {
	var since eggs.Time // when we began to lead
	unserved := map[uint64]eggs.Time{}
	held := ""
	pause := retireEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = retireEvery
		g := n.host.Group(eggs.CDCGroup)
		if g == nil || !g.Leads() {
			since = 0
			clear(unserved)
			continue
		}
		if since == 0 {
			since = n.clock()
		}
		v, hold, err := n.silent(ctx, since, unserved)
		if err == nil && v != nil {
			err = n.pronounce(ctx, v)
		}
		if err != nil && ctx.Err() == nil {
			n.log.Debug("silent disks", "err", err)
			pause = retireRetry
		}
		if hold != "" && held == "" {
			n.events.add("warn", hold)
		}
		held = hold
	}
}

// silent makes the next decision, with the version of the facts it was made from.
func (n *Node) silent(ctx context.Context, since eggs.Time, unserved map[uint64]eggs.Time) (
	*verdict, string, error,
) {
	facts, err := n.queryFacts(ctx)
	if err != nil {
		return nil, "", err
	}
	s := &silence{
		facts: facts, served: map[uint64]bool{}, alive: map[uint64]bool{uint64(n.id): true},
		now: n.clock(), since: since, unserved: unserved,
	}
	for _, nv := range n.gossip.View().Nodes {
		if nv.State != gossip.Alive {
			continue
		}
		s.alive[uint64(nv.ID)] = true
		for _, d := range nv.Disks {
			s.served[uint64(d.ID)] = true
		}
	}
	p, err := n.client.Policies(ctx, eggs.Root)
	if err != nil {
		return nil, "", err
	}
	for _, c := range p.Span {
		s.need = max(s.need, c.Parity.Blocks())
	}
	s.look()
	v, hold := s.decide()
	if v != nil {
		v.version = facts.Version
	}
	return v, hold, nil
}

// pronounce records a decision, if it is still about the facts that it was made from.
// It fails with Kind Unsupported when that changes nothing.
func (n *Node) pronounce(ctx context.Context, v *verdict) error {
	reply, err := n.client.CDC(ctx, &wire.CdcRequest{
		IfVersion: v.version,
		Op:        &wire.CdcRequest_PutDisk{PutDisk: &wire.PutDisk{Disk: v.disk, Mask: v.mask}},
	})
	if err != nil {
		return err
	}
	if reply.Version == v.version {
		return eggs.E("node.Retire", eggs.Unsupported, "the coordinator does not record silence")
	}
	n.events.add(v.level, v.text)
	return nil
}
