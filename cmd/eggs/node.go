package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

func nodeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "node", Short: "list, drain and remove nodes", Args: args(cobra.NoArgs),
		Long: `A node is named by its id, the beginning of it, or its address.

` + exitCodes,
	}
	cmd.AddCommand(nodeListCommand(o), nodeDrainCommand(o), nodeRemoveCommand(o))
	return cmd
}

// withMembers opens the cluster and reads who belongs to it.
func withMembers(o *options, do func(context.Context, *client.Client, *members, []string) error) func(
	*cobra.Command, []string,
) error {
	return func(cmd *cobra.Command, a []string) error {
		c, err := o.open(cmd.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		m, err := readMembers(cmd.Context(), c)
		if err != nil {
			return err
		}
		return do(cmd.Context(), c, m, a)
	}
}

type nodeRow struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	Domain   string `json:"failure_domain"`
	State    string `json:"state"` // ready, starting, down, draining, drained, lost or removed
	Replicas int    `json:"replicas"`
	Leads    int    `json:"leads"`
	Disks    int    `json:"disks"`
	Blocks   uint64 `json:"blocks"`
	Known    bool   `json:"blocks_known"` // false: some disk is not served, so there may be more
	Version  string `json:"version,omitempty"`
	Protocol uint32 `json:"protocol"`
}

func (m *members) nodeRow(f *wire.NodeFact) nodeRow {
	r := nodeRow{
		ID: eggs.NodeID(f.Id).String(), Address: f.Address, Domain: f.Domain, State: "down", Protocol: f.Protocol,
	}
	r.Replicas, r.Leads = m.replicas(f.Id)
	r.Blocks, r.Known = m.blocks(f.Id)
	for _, d := range m.facts.Disks {
		if d.Node == f.Id && !d.Retired {
			r.Disks++
		}
	}
	if s := m.speaking[f.Id]; s != nil {
		r.Version, r.State = s.Version, "starting"
		if s.Ready {
			r.State = "ready"
		}
	}
	switch {
	case f.Removed:
		r.State = "removed"
	case f.Lost:
		r.State = "lost"
	case f.Draining && r.State == "down":
		r.State = "down, draining"
	case f.Draining && r.Replicas == 0 && r.Blocks == 0 && r.Known:
		r.State = "drained"
	case f.Draining:
		r.State = "draining"
	}
	return r
}

func nodeListCommand(o *options) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list", Short: "the nodes, and what they hold", Args: args(cobra.NoArgs),
		Long: `list shows every node: its state (ready, starting, down, draining, drained, lost), the
replicas of groups that it holds and leads, and the blocks on its disks. With --all
those that were removed as well.

` + exitCodes,
		RunE: withMembers(o, func(_ context.Context, _ *client.Client, m *members, _ []string) error {
			rows := []nodeRow{}
			for _, f := range m.facts.Nodes {
				if all || !f.Removed {
					rows = append(rows, m.nodeRow(f))
				}
			}
			if o.json() {
				return printJSON(rows)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
			fmt.Fprintln(w, "NODE\tADDRESS\tDOMAIN\tSTATE\tREPLICAS\tLEADS\tDISKS\tBLOCKS\tVERSION")
			for _, r := range rows {
				blocks := fmt.Sprint(r.Blocks)
				if !r.Known {
					blocks += "+?"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", r.ID, r.Address, r.Domain, r.State, r.Replicas,
					r.Leads, r.Disks, blocks, r.Version)
			}
			return w.Flush()
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "removed nodes as well")
	return cmd
}

func nodeDrainCommand(o *options) *cobra.Command {
	var undo, noWait bool
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "move everything off a node, while clients work", Args: args(cobra.ExactArgs(1)),
		Long: `drain moves a node's replicas, leaderships and blocks to the other nodes, and waits until
it holds nothing; then 'eggs node remove' can end its membership. It is refused when too
few nodes would be left. Ctrl-C ends the waiting only. --undo takes the drain back.

` + exitCodes,
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, m *members, a []string) error {
			f, err := m.node(a[0])
			if err != nil {
				return err
			}
			if !undo {
				if err := m.mayGo(f); err != nil {
					return err
				}
			}
			if err := putNode(ctx, c, &wire.NodeFact{Id: f.Id, Draining: !undo}, maskDraining); err != nil {
				return err
			}
			if undo || noWait {
				o.say("node %s: draining %t", eggs.NodeID(f.Id), !undo)
				return nil
			}
			return waitDrained(ctx, o, "node "+eggs.NodeID(f.Id).String(), func() (uint64, string, error) {
				m, err := readMembers(ctx, c)
				if err != nil {
					return 1, err.Error(), nil
				}
				r := m.nodeRow(f)
				left := uint64(r.Replicas) + r.Blocks
				if !r.Known && left == 0 {
					left = 1
				}
				text := fmt.Sprintf("%d replicas, %d leaders and %d blocks left", r.Replicas, r.Leads, r.Blocks)
				return left, text, nil
			})
		}),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "take the drain back")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it holds nothing")
	return cmd
}

// mayGo refuses when a group could not have as many voters without this node.
func (m *members) mayGo(f *wire.NodeFact) error {
	const meta = 1 // role
	others, voters := 0, 0
	for _, n := range m.facts.Nodes {
		if n.Id != f.Id && n.Roles&meta != 0 && !n.Draining && !n.Lost && !n.Removed {
			others++
		}
	}
	for _, g := range m.facts.Groups {
		voters = max(voters, len(g.Voters)-len(g.Leaving))
	}
	voters = min(voters, int(m.facts.Replicas))
	if holds, _ := m.replicas(f.Id); holds > 0 && others < voters {
		return refuse("eggs node drain", eggs.NodeID(f.Id).String(), "each group has %d voters and only "+
			"%d other nodes could hold them: join another node, or ask for fewer with "+
			"'eggs cluster set replicas=N'", voters, others)
	}
	return nil
}

// waitDrained waits until nothing is left, and says how far it is every 10 s, with an estimate.
func waitDrained(ctx context.Context, o *options, name string, look func() (uint64, string, error)) error {
	const every, talk = 500 * time.Millisecond, 10 * time.Second
	began, last, first := time.Now(), time.Time{}, uint64(0)
	for {
		left, text, err := look()
		if err != nil {
			return err
		}
		if left == 0 {
			o.say("%s holds nothing", name)
			return nil
		}
		if first = max(first, left); time.Since(last) > talk {
			if done := first - left; done > 0 {
				text += fmt.Sprintf(", about %s to go", (time.Since(began) / time.Duration(done) *
					time.Duration(left)).Round(time.Second))
			}
			o.say("%s: %s", name, text)
			last = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

func nodeRemoveCommand(o *options) *cobra.Command {
	var lost bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "end a node's membership", Args: args(cobra.ExactArgs(1)),
		Long: `remove ends the membership of a node that holds nothing ('eggs node drain' first); it is
refused while data would be lost. The identity is refused for ever after.

--lost says that the node is gone for good, with what is on it: its replicas are made
anew on other nodes, its disks are retired and their blocks rebuilt from parity, and it
is removed when no group needs it any more. What is missing until then is shown by
'eggs status'. It is refused while the node answers, and where a group would be left
without a majority, since nothing could replace that.

` + exitCodes,
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, m *members, a []string) error {
			f, err := m.node(a[0])
			switch {
			case err != nil:
				return err
			case f.Removed:
				o.say("node %s is removed already", eggs.NodeID(f.Id))
				return nil
			case lost:
				return declareLost(ctx, o, c, m, f)
			}
			return removeNode(ctx, o, c, m, f)
		}),
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "the node is gone for good, with what is on it")
	return cmd
}

func removeNode(ctx context.Context, o *options, c *client.Client, m *members, f *wire.NodeFact) error {
	const op = "eggs node remove"
	name := eggs.NodeID(f.Id).String()
	if holds, _ := m.replicas(f.Id); holds > 0 {
		return refuse(op, name, "it holds %d replicas: 'eggs node drain' it first, or say --lost "+
			"if it is gone for good", holds)
	}
	for _, d := range m.facts.Disks {
		if d.Node != f.Id || d.Retired {
			continue
		}
		if err := emptyDisk(ctx, c, op, d.Id); err != nil {
			return err
		}
	}
	for _, d := range m.facts.Disks {
		if d.Node == f.Id && !d.Retired {
			if err := putDisk(ctx, c, &wire.DiskFact{Id: d.Id, Retired: true, Why: "its node was removed"},
				maskRetired); err != nil {
				return err
			}
		}
	}
	if _, err := c.CDC(ctx, &wire.CdcRequest{
		Op: &wire.CdcRequest_RemoveNode{RemoveNode: &wire.RemoveNode{Id: f.Id}},
	}); err != nil {
		return err
	}
	o.say("node %s is removed", name)
	return nil
}

// emptyDisk refuses when a file has blocks on a disk.
func emptyDisk(ctx context.Context, c *client.Client, op string, disk uint64) error {
	const enough = 1000 // files: a number to go by
	files, err := filesOnDisk(ctx, c, disk, enough)
	if err != nil {
		return err
	}
	if files > 0 {
		some := fmt.Sprint(files)
		if files >= enough {
			some += " or more"
		}
		return refuse(op, eggs.DiskID(disk).String(), "this disk holds blocks of %s files: drain first, or say --lost "+
			"if it is gone for good", some)
	}
	return nil
}

func declareLost(ctx context.Context, o *options, c *client.Client, m *members, f *wire.NodeFact) error {
	const op = "eggs node remove --lost"
	name := eggs.NodeID(f.Id).String()
	if m.speaking[f.Id] != nil {
		return refuse(op, name, "it answers: 'eggs node drain' moves what it holds, without loss; or stop it first")
	}
	for _, g := range m.facts.Groups {
		if !slices.Contains(g.Voters, f.Id) {
			continue
		}
		up := 0
		for _, v := range g.Voters {
			if v != f.Id && m.speaking[v] != nil {
				up++
			}
		}
		if up <= len(g.Voters)/2 {
			return refuse(op, name, "group %s would have %d of %d voters left, no majority, and could never be "+
				"mended: start its other nodes first", eggs.GroupID(g.Group), up, len(g.Voters))
		}
	}
	if err := putNode(ctx, c, &wire.NodeFact{Id: f.Id, Lost: true}, maskLost); err != nil {
		return err
	}
	o.say("node %s is declared lost; 'eggs status' shows what is missing until it is replaced", name)
	return nil
}
