package web

import (
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// members is who belongs to the cluster by the newest facts that a node told: the page
// says of nodes and disks what `eggs node list` and `eggs disk list` say.
type members struct {
	facts  *wire.Facts
	nodes  map[uint64]*wire.NodeFact
	served map[uint64]bool // disks that a node which answers serves
}

func membersOf(st *client.ClusterStatus) *members {
	m := &members{nodes: map[uint64]*wire.NodeFact{}, served: map[uint64]bool{}}
	for _, n := range st.Nodes {
		if n.Facts != nil && (m.facts == nil || n.Facts.Version > m.facts.Version) {
			m.facts = n.Facts
		}
		for _, d := range n.Disks {
			m.served[d.Id] = m.served[d.Id] || d.Id != 0
		}
	}
	for _, f := range m.facts.GetNodes() {
		m.nodes[f.Id] = f
	}
	return m
}

// replicas counts the groups that name a node.
func (m *members) replicas(node uint64) (count int) {
	for _, g := range m.facts.GetGroups() {
		if slices.Contains(g.Voters, node) || slices.Contains(g.Learners, node) || slices.Contains(g.Leaving, node) {
			count++
		}
	}
	return count
}

// state is a node's state in words, what is left on it when it goes, and whether somebody should look.
func (m *members) state(id uint64, said *wire.NodeStatus) (state, left string, bad bool) {
	f := m.nodes[id]
	replicas, blocks, known := m.replicas(id), uint64(0), true
	for _, d := range m.facts.GetDisks() {
		known = known && (d.Node != id || d.Retired || m.served[d.Id])
	}
	for _, d := range said.GetDisks() {
		blocks += d.Blocks
	}
	text := fmt.Sprintf("%d replicas and %d blocks left", replicas, blocks)
	switch {
	case f.GetLost() && replicas == 0:
		return "lost", "nothing of it is missing", false
	case f.GetLost():
		return "lost", fmt.Sprintf("%d replicas not replaced yet", replicas), true
	case said == nil && f.GetDraining():
		return "down, draining", fmt.Sprintf("%d replicas left", replicas), true
	case said == nil:
		return "down", "", true
	case f.GetDraining() && replicas == 0 && blocks == 0 && known:
		return "drained", "holds nothing", false
	case f.GetDraining():
		return "draining", text, false
	case !said.Ready:
		return "starting", "", true
	}
	return "ready", "", false
}

// removed says in words which nodes belonged once.
func (m *members) removed() (all []string) {
	for _, f := range m.facts.GetNodes() {
		if f.Removed {
			all = append(all, fmt.Sprintf("%s (%s) since %s", eggs.NodeID(f.Id).String()[:8], f.Address,
				day(f.RemovedAt)))
		}
	}
	return all
}

// disks are a node's disks as it serves them, then those that are silent; retired counts those
// that are out of use for ever and that nobody serves.
func (m *members) disks(id uint64, said *wire.NodeStatus) (rows []diskRow, retired int) {
	facts := map[uint64]*wire.DiskFact{}
	for _, f := range m.facts.GetDisks() {
		facts[f.Id] = f
	}
	for _, d := range said.GetDisks() {
		rows = append(rows, diskOf(d, facts[d.Id], m.nodes[id].GetDraining()))
	}
	for _, f := range m.facts.GetDisks() {
		switch {
		case f.Node != id || m.served[f.Id]:
		case f.Retired:
			retired++
		default:
			row := diskRow{ID: eggs.DiskID(f.Id).String(), State: "silent", Off: true, Room: "no living node serves it"}
			if f.SilentSince != 0 {
				row.State, row.Room = "silent since "+clock(f.SilentSince), row.Room+" since "+day(f.SilentSince)
			}
			rows = append(rows, row)
		}
	}
	return rows, retired
}

func diskOf(d *wire.DiskStatus, f *wire.DiskFact, leaves bool) diskRow {
	row := diskRow{
		ID: eggs.DiskID(d.Id).String(), Path: d.Path, Error: d.Error, Blocks: d.Blocks,
		Room: humanize.IBytes(d.Free) + " free of " + humanize.IBytes(d.Capacity),
	}
	if d.Capacity > 0 {
		row.Fill = int(100 * (d.Capacity - min(d.Free, d.Capacity)) / d.Capacity)
	}
	switch {
	case f.GetRetired():
		row.State, row.Off = "retired", true
		row.Room = fmt.Sprintf("retired %s (%s)", day(f.RetiredAt), f.Why)
	case d.Error != "":
		row.State, row.Off, row.Bad = "failed", true, true
	case (f.GetDraining() || leaves) && d.Blocks == 0:
		row.State = "drained"
	case f.GetDraining() || leaves:
		row.State = fmt.Sprintf("draining, %d left", d.Blocks)
	case f.GetNoWrite():
		row.State = "no-write"
	case !d.Writable:
		row.State, row.Full = "slow", true
	case d.Free == 0:
		row.State, row.Full = "full", true
	}
	return row
}

func clock(ns int64) string { return eggs.Time(ns).Std().Local().Format("15:04:05") }

func day(ns int64) string { return eggs.Time(ns).Std().Local().Format(time.DateTime) }

// repairOf says what this node's repair has done and has before it; "" when it has no such role.
func repairOf(r Reporter) string {
	f, ok := r.(Figurer)
	if !ok {
		return ""
	}
	v := map[string]uint64{}
	for _, x := range f.Figures() {
		v[x.Name] = uint64(x.Value)
	}
	if _, ok := v["upkeep_repaired_blocks_total"]; !ok {
		return ""
	}
	text := fmt.Sprintf("%d files to look at; %d blocks (%s) made anew since it started, %d of them rebuilt from "+
		"parity; %d blocks verified, %d bad", v["upkeep_repair_queue_files"], v["upkeep_repaired_blocks_total"],
		humanize.IBytes(v["upkeep_repaired_bytes_total"]), v["upkeep_rebuilt_blocks_total"],
		v["upkeep_scrubbed_blocks_total"], v["upkeep_scrub_bad_blocks_total"])
	if n := v["upkeep_repair_failures_total"]; n > 0 {
		text += fmt.Sprintf("; %d attempts failed", n)
	}
	if n := v["upkeep_lost_spans_total"]; n > 0 {
		text += fmt.Sprintf("; %d times too few good blocks were in reach", n)
	}
	return text
}
