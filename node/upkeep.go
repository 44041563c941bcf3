package node

import (
	"context"

	"eggsfs/eggs"
	"eggsfs/gateway/web"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// leads reports whether this node leads a shard's group, as far as it knows.
func (n *Node) leads(s eggs.ShardID) bool {
	g := n.host.Group(s.Group())
	return g != nil && g.Leads()
}

// collect runs the collector on the shards that this node leads.
func (n *Node) collect(ctx context.Context) {
	if n.identity.Roles&RoleUpkeep == 0 {
		return
	}
	upkeep.NewCollector(upkeep.Config{
		Client: n.client, Interval: n.cfg.GCInterval, Logger: n.log, Event: n.events.add,
		Leads: func(s eggs.ShardID) bool { return n.leads(s) && !n.clockVerdict().pauses() },
		Facts: n.router.Facts, Clock: n.clock,
	}).Run(ctx)
}

// makeMigrator makes what repairs blocks, if this node has the role.
func (n *Node) makeMigrator() {
	if n.identity.Roles&RoleUpkeep == 0 {
		return
	}
	n.migrator = upkeep.NewMigrator(upkeep.MigratorConfig{
		Client: n.client, Rate: n.cfg.RepairRate, Logger: n.log, Event: n.events.add,
		Leads: n.leads, Facts: n.router.Facts,
		Bad: func(s eggs.ShardID) []*wire.BadBlock {
			if shard := n.shards[s].Load(); shard != nil {
				return shard.TakeBad()
			}
			return nil
		},
	})
}

// scrub reads what is in the shards that this node leads, slowly.
func (n *Node) scrub(ctx context.Context) {
	if n.migrator == nil {
		return
	}
	s := upkeep.NewScrubber(upkeep.ScrubberConfig{
		Client: n.client, Rate: n.cfg.ScrubRate, Logger: n.log, Leads: n.leads, Bad: n.migrator.Report,
	})
	n.scrubber.Store(s)
	s.Run(ctx)
}

// repair runs the migrator on the shards that this node leads.
func (n *Node) repair(ctx context.Context) {
	if n.migrator != nil {
		n.migrator.Run(ctx)
	}
}

// Figures is what /metrics says of upkeep; it makes a reporter a web.Figurer.
func (r reporter) Figures() []web.Figure {
	if r.n.migrator == nil {
		return nil
	}
	st := r.n.migrator.Stats()
	count := func(name, help string, v uint64) web.Figure {
		return web.Figure{Name: "upkeep_" + name, Help: help, Value: float64(v), Counter: true}
	}
	out := []web.Figure{
		count("repaired_blocks_total", "blocks made anew", st.Blocks),
		count("repaired_bytes_total", "bytes of them", st.Bytes),
		count("rebuilt_blocks_total", "of them, rebuilt from parity", st.Rebuilt),
		count("repair_failures_total", "attempts to repair a file that failed", st.Failed),
		count("lost_spans_total", "times that too few good blocks of a span were in reach", st.Lost),
		count("spread_spans_total", "spans that crowded a failure domain and were spread again", st.Spread),
		{
			Name: "upkeep_repair_queue_files", Help: "files that the present round has to look at",
			Value: float64(st.Queued),
		},
	}
	if s := r.n.scrubber.Load(); s != nil {
		sc := s.Stats()
		out = append(out,
			count("scrubbed_blocks_total", "blocks that disks verified", sc.Blocks),
			count("scrubbed_bytes_total", "bytes of them", sc.Bytes),
			count("scrub_bad_blocks_total", "blocks that were missing or wrong", sc.Bad),
			count("scrub_passes_total", "passes over all files of the shards led here", sc.Passes))
	}
	return out
}
