package node

import (
	"context"

	"eggsfs/eggs"
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
	upkeep.NewScrubber(upkeep.ScrubberConfig{
		Client: n.client, Rate: n.cfg.ScrubRate, Logger: n.log, Leads: n.leads, Bad: n.migrator.Report,
	}).Run(ctx)
}

// repair runs the migrator on the shards that this node leads.
func (n *Node) repair(ctx context.Context) {
	if n.migrator != nil {
		n.migrator.Run(ctx)
	}
}
