package gossip

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"

	"eggsfs/eggs"
)

// delegate is what memberlist calls. Announcements come with memberlist's lock
// held, so nothing here calls memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate      = delegate{}
	_ memberlist.EventDelegate = delegate{}
	_ memberlist.AliveDelegate = delegate{}
	_ memberlist.PingDelegate  = delegate{}
)

// NodeMeta is what this node announces.
func (d delegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.meta
}

// broadcast is one chunk of a node's record; a later one takes its place.
type broadcast struct {
	name string
	b    []byte
}

// Invalidates is not used: the name decides.
func (b *broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Name makes a later broadcast of the same chunk replace this one.
func (b *broadcast) Name() string { return b.name }

// Message is the bytes.
func (b *broadcast) Message() []byte { return b.b }

// Finished is of no interest.
func (b *broadcast) Finished() {}

func (g *Gossip) spread(id eggs.NodeID, chunk uint32, b []byte) {
	g.queue.QueueBroadcast(&broadcast{name: fmt.Sprintf("%s/%d", id, chunk), b: b})
}

// NotifyMsg takes a broadcast, and passes news on.
func (d delegate) NotifyMsg(b []byte) {
	r, err := decodeRecord(b)
	if err != nil {
		return
	}
	d.g.mu.Lock()
	news := d.g.heard(&r)
	d.g.mu.Unlock()
	if news {
		d.g.spread(r.node, r.chunk, append([]byte(nil), b...))
	}
}

// GetBroadcasts gives what is to be spread.
func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState is every record known of members that are not gone.
func (d delegate) LocalState(bool) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	var b []byte
	for id, m := range d.g.members {
		if m.version == 0 || m.view.State != Alive {
			continue
		}
		r := record{
			node: id, version: m.version, clock: m.view.Clock, disks: m.view.Disks, chunks: 1,
		}
		b = appendText(b, 1, r.encode())
	}
	return b
}

// MergeRemoteState takes a peer's.
func (d delegate) MergeRemoteState(b []byte, _ bool) {
	records, err := decodeState(b)
	if err != nil {
		d.g.cfg.Logger.Warn("a member's state cannot be read", "error", err)
	}
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	for i := range records {
		d.g.heard(&records[i])
	}
}

// NotifyAlive refuses announcements that do not belong here.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	m, err := decodeMeta(n.Meta)
	switch {
	case err != nil:
		return err
	case m.cluster != d.g.cfg.Cluster:
		return fmt.Errorf("it belongs to cluster %s, this node to %s", m.cluster, d.g.cfg.Cluster)
	case m.info.ID.String() != n.Name:
		return fmt.Errorf("it calls itself %s", m.info.ID)
	case !n.Addr.Equal(fakeIP(nodePrefix, uint64(m.info.ID))) || n.Port != fakePort:
		return fmt.Errorf("its address %s is not made from its id", n.Address())
	}
	return nil
}

// NotifyJoin takes a member that is new or back.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.NotifyUpdate(n) }

// NotifyUpdate takes what a member says of itself now.
func (d delegate) NotifyUpdate(n *memberlist.Node) {
	m, err := decodeMeta(n.Meta)
	if err != nil {
		return // NotifyAlive let it pass, so it cannot be
	}
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.announced(m)
}

// NotifyLeave takes a member's death or departure.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	if id, err := eggs.ParseNodeID(n.Name); err == nil {
		d.g.mu.Lock()
		defer d.g.mu.Unlock()
		d.g.gone(id)
	}
}

// AckPayload sends this node's clock along with the answer to a probe, and the
// version of its record, so that whoever missed a broadcast finds out.
func (d delegate) AckPayload() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), uint64(d.g.cfg.Clock()))
	return binary.LittleEndian.AppendUint64(b, d.g.version.Load())
}

// NotifyPingComplete takes the clock of a member that answered: it was read about half way.
func (d delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, payload []byte) {
	id, err := eggs.ParseNodeID(n.Name)
	if err != nil || len(payload) < 16 {
		return
	}
	theirs := eggs.Time(binary.LittleEndian.Uint64(payload))
	offset := time.Duration(theirs-d.g.cfg.Clock()) + rtt/2
	version := binary.LittleEndian.Uint64(payload[8:])
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	d.g.measured(id, offset)
	if d.g.missed(id, version) {
		d.g.exchange(n.Address())
	}
}
