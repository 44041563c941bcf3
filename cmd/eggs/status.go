package main

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

func statusCommand(o *options) *cobra.Command {
	var exit bool
	cmd := &cobra.Command{
		Use: "status", Short: "is the cluster healthy, and if not, what is missing", Args: args(cobra.NoArgs),
		Long: `status asks every node and says what it finds: healthy; degraded (all works, but
less may fail than should) or unavailable (something does not work), with what is
missing and what is being done about it.

With --exit-code: 0 healthy, 1 degraded, 2 unavailable.
Otherwise: ` + exitCodes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			st, err := c.ClusterStatus(cmd.Context())
			if err != nil {
				return err
			}
			if err := addLeft(cmd.Context(), c, st); err != nil {
				o.say("what is on leaving disks could not be counted: %v", err)
			}
			if o.json() {
				err = printJSON(statusJSON(st))
			} else {
				err = printStatus(os.Stdout, st)
			}
			if err == nil && exit {
				switch st.Health {
				case "degraded":
					return codeError{1}
				case "unavailable":
					return codeError{2}
				}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&exit, "exit-code", false, "0 healthy, 1 degraded, 2 unavailable")
	return cmd
}

type statusReport struct {
	Cluster  string          `json:"cluster"`
	Health   string          `json:"health"`
	Problems []statusProblem `json:"problems"`
	Nodes    []statusNode    `json:"nodes"`
	Groups   int             `json:"groups"`
	Led      int             `json:"groups_with_leader"`
	Capacity uint64          `json:"capacity_bytes"`
	Free     uint64          `json:"free_bytes"`
}

type statusProblem struct {
	What        string `json:"what"`
	Doing       string `json:"doing,omitempty"`
	Unavailable bool   `json:"unavailable"`
}

type statusNode struct {
	ID       string `json:"id"`
	Address  string `json:"address"`
	State    string `json:"state"`
	Version  string `json:"version,omitempty"`
	Leads    int    `json:"groups_led"`
	Holds    int    `json:"groups_held"`
	Disks    int    `json:"disks"`
	DisksBad int    `json:"disks_failed"`
	Memory   uint64 `json:"memory_bytes"`
	Capacity uint64 `json:"capacity_bytes"`
	Free     uint64 `json:"free_bytes"`
}

func statusJSON(st *client.ClusterStatus) statusReport {
	r := statusReport{
		Cluster: st.Cluster.String(), Health: st.Health, Groups: eggs.Groups,
		Problems: []statusProblem{}, Nodes: statusNodes(st),
	}
	for _, p := range st.Problems {
		r.Problems = append(r.Problems, statusProblem{What: p.What, Doing: p.Doing, Unavailable: p.Unavailable})
	}
	for _, l := range st.Routes.GetLeaders() {
		if l != 0 {
			r.Led++
		}
	}
	for _, n := range r.Nodes {
		r.Capacity += n.Capacity
		r.Free += n.Free
	}
	return r
}

func statusNodes(st *client.ClusterStatus) []statusNode {
	byID := map[uint64]*wire.NodeStatus{}
	for _, n := range st.Nodes {
		byID[n.Id] = n
	}
	led := map[uint64]int{}
	for _, l := range st.Routes.GetLeaders() {
		led[l]++
	}
	nodes := []statusNode{}
	for _, rn := range st.Routes.GetNodes() {
		n := statusNode{
			ID: eggs.NodeID(rn.Id).String(), Address: rn.Address, State: "down", Leads: led[rn.Id],
		}
		if s := byID[rn.Id]; s != nil {
			n.State, n.Version, n.Memory = "starting", s.Version, s.Memory
			if s.Ready {
				n.State = "ready"
			}
			for _, f := range s.Facts.GetNodes() {
				if f.Id == rn.Id && f.Draining {
					n.State = "draining"
				}
			}
			n.Holds, n.Disks = len(s.Groups), len(s.Disks)
			for _, d := range s.Disks {
				if d.Error != "" {
					n.DisksBad++
				}
				n.Capacity += d.Capacity
				n.Free += d.Free
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func printStatus(out io.Writer, st *client.ClusterStatus) error {
	r := statusJSON(st)
	fmt.Fprintf(out, "cluster %s is %s\n", r.Cluster, r.Health)
	for _, p := range r.Problems {
		fmt.Fprintf(out, "  ! %s\n", p.What)
		if p.Doing != "" {
			fmt.Fprintf(out, "    %s\n", p.Doing)
		}
	}
	fmt.Fprintf(out, "\n%d of %d groups have a leader; %s free of %s on %d nodes\n\n", r.Led, r.Groups,
		humanize.IBytes(r.Free), humanize.IBytes(r.Capacity), len(r.Nodes))
	w := tabwriter.NewWriter(out, 0, 1, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tADDRESS\tSTATE\tLEADS\tHOLDS\tDISKS\tFREE\tMEMORY")
	for _, n := range r.Nodes {
		disks := fmt.Sprint(n.Disks)
		if n.DisksBad > 0 {
			disks += fmt.Sprintf(" (%d failed)", n.DisksBad)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", n.ID, n.Address, n.State, n.Leads, n.Holds, disks,
			humanize.IBytes(n.Free), humanize.IBytes(n.Memory))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printEvents(out, st)
}

// printEvents shows the last few events of all nodes, oldest first.
func printEvents(out io.Writer, st *client.ClusterStatus) error {
	const last = 8 // events: what fits under the table on a small terminal
	var events []*wire.Event
	for _, n := range st.Nodes {
		events = append(events, n.Events...)
	}
	if len(events) == 0 {
		return nil
	}
	sortEvents(events)
	if len(events) > last {
		events = events[len(events)-last:]
	}
	fmt.Fprintln(out, "\nrecent events")
	for _, e := range events {
		fmt.Fprintf(out, "  %s  %s\n", eggs.Time(e.Time).Std().Local().Format(time.TimeOnly), e.Text)
	}
	return nil
}
