package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

func sortEvents(events []*wire.Event) {
	sort.SliceStable(events, func(i, j int) bool { return events[i].Time < events[j].Time })
}

func gcCommand(o *options) *cobra.Command {
	var transient string
	cmd := &cobra.Command{
		Use: "gc [DIR | --transient ID]", Short: "collect garbage now", Args: args(cobra.MaximumNArgs(1)),
		Long: `gc frees what the policies no longer keep: past versions in DIR and below, and the
directories removed there; with --transient one expired file that has no name;
with neither, everything in the cluster. The nodes do the same by themselves,
a little later. It never removes what a policy keeps: to delete at once, set
the snapshot policy first ('eggs policy set DIR snapshot=0').

` + exitCodes,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			g := upkeep.NewCollector(upkeep.Config{Client: c})
			r, err := collect(ctx, c, g, a, transient)
			if o.json() {
				if perr := printJSON(r); err == nil {
					err = perr
				}
			} else {
				o.say("%s", r)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&transient, "transient", "", "one file without a name, by its id (see transient-files)")
	return cmd
}

func collect(ctx context.Context, c *client.Client, g *upkeep.Collector, a []string, transient string) (
	upkeep.Report, error,
) {
	switch {
	case transient != "" && len(a) > 0:
		return upkeep.Report{}, usageError{errors.New("gc: give a directory or --transient, not both")}
	case transient != "":
		n, err := strconv.ParseUint(transient, 16, 64)
		if err != nil {
			return upkeep.Report{}, usageError{fmt.Errorf("--transient %s: not an id", transient)}
		}
		return g.CollectTransient(ctx, eggs.InodeID(n))
	case len(a) == 1:
		p, err := cleanPath(a[0])
		if err != nil {
			return upkeep.Report{}, err
		}
		dir, err := c.Walk(ctx, p)
		if err != nil {
			return upkeep.Report{}, err
		}
		return g.CollectDir(ctx, dir.ID)
	}
	return g.CollectAll(ctx)
}

func checkCommand(o *options) *cobra.Command {
	var count bool
	cmd := &cobra.Command{
		Use: "check", Short: "run every shard's invariants", Args: args(cobra.NoArgs),
		Long: `check has each of the 256 shards and the coordinator check its own invariants, and
prints the faults. It changes nothing. It does not look across shards or at disks.
With --count it says instead how much the shards hold.

Exit codes: 0 no fault, 1 faults or failure, 4 cluster out of reach.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer c.Close()
			if count {
				return countShards(cmd.Context(), o, c)
			}
			return checkShards(cmd.Context(), o, c)
		},
	}
	cmd.Flags().BoolVar(&count, "count", false, "say how much the shards hold")
	return cmd
}

func checkShards(ctx context.Context, o *options, c *client.Client) error {
	faults := 0
	show := func(where string, fs *wire.Faults) {
		for _, f := range fs.GetFaults() {
			faults++
			fmt.Printf("%s: invariant %d: %s\n", where, f.Invariant, f.Text)
		}
	}
	for s := range uint32(eggs.Shards) {
		a, err := c.Query(ctx, &wire.ShardQuery{
			Shard: s, Query: &wire.ShardQuery_CheckShard{CheckShard: &wire.CheckShard{}},
		})
		if err != nil {
			return err
		}
		show(fmt.Sprintf("shard %d", s), a.GetCheckShard())
	}
	a, err := c.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_Check{Check: &wire.CheckShard{}}})
	if err != nil {
		return err
	}
	show("cdc", a.GetCheck())
	o.say("%d faults", faults)
	if faults > 0 {
		return codeError{1}
	}
	return nil
}

func countShards(ctx context.Context, o *options, c *client.Client) error {
	var sum wire.ShardStatAnswer
	for s := range uint32(eggs.Shards) {
		a, err := c.Query(ctx, &wire.ShardQuery{
			Shard: s, Query: &wire.ShardQuery_ShardStat{ShardStat: &wire.ShardStat{}},
		})
		if err != nil {
			return err
		}
		st := a.GetShardStat()
		sum.Directories += st.Directories
		sum.Files += st.Files + st.Transient
		sum.Edges += st.Edges + st.SnapshotEdges
		sum.Blocks += st.Blocks
	}
	if o.json() {
		return printJSON(map[string]uint64{
			"directories": sum.Directories, "files": sum.Files, "edges": sum.Edges, "blocks": sum.Blocks,
		})
	}
	fmt.Printf("%d directories, %d files, %d edges, %d blocks\n", sum.Directories, sum.Files, sum.Edges, sum.Blocks)
	return nil
}

func policyCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "show or set a directory's policies"}
	get := &cobra.Command{
		Use: "get DIR", Short: "show what is in force for a directory", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			c, dir, err := openDir(cmd.Context(), o, a[0])
			if err != nil {
				return err
			}
			defer c.Close()
			p, err := c.Policies(cmd.Context(), dir.ID)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(p)
			}
			return printPolicies(p)
		},
	}
	set := &cobra.Command{
		Use: "set DIR TAG=VALUE…", Short: "set a directory's own policies", Args: args(cobra.MinimumNArgs(2)),
		Long: `set gives DIR tags of its own; what is below inherits them.

  snapshot=DURATION   keep deleted and replaced content for so long (0: delete at once)
  inline=SIZE         files up to this size live in the shard
  cell=SIZE           cell size of a stripe, a multiple of 4 KiB
  TAG=inherit         give the tag up again

` + exitCodes,
		Example: "  eggs policy set /scratch snapshot=0",
		RunE: func(cmd *cobra.Command, a []string) error {
			policies, clear, err := parsePolicies(a[1:])
			if err != nil {
				return usageError{err}
			}
			c, dir, err := openDir(cmd.Context(), o, a[0])
			if err != nil {
				return err
			}
			defer c.Close()
			return c.SetPolicy(cmd.Context(), dir.ID, policies, clear)
		},
	}
	cmd.AddCommand(get, set)
	return cmd
}

func openDir(ctx context.Context, o *options, p string) (*client.Client, client.Attr, error) {
	p, err := cleanPath(p)
	if err != nil {
		return nil, client.Attr{}, err
	}
	c, err := o.open(ctx)
	if err != nil {
		return nil, client.Attr{}, err
	}
	a, err := c.Walk(ctx, p)
	if err == nil && !a.ID.IsDir() {
		err = &eggs.Error{Op: "eggs.policy", Name: p, Kind: eggs.NotDir}
	}
	if err != nil {
		c.Close()
	}
	return c, a, err
}

// Bits of wire.SetPolicy.clear.
const (
	clearSnapshot = 1
	clearStripe   = 4
	clearInline   = 8
)

func parsePolicies(tags []string) (*wire.Policies, uint32, error) {
	p := &wire.Policies{}
	var clear uint32
	for _, t := range tags {
		tag, value, _ := strings.Cut(t, "=")
		bit, ok := map[string]uint32{"snapshot": clearSnapshot, "cell": clearStripe, "inline": clearInline}[tag]
		if !ok {
			return nil, 0, fmt.Errorf("policy: %q is none of snapshot, inline, cell", tag)
		}
		if value == "inherit" {
			clear |= bit
			continue
		}
		var size uint64
		var keep time.Duration
		var err error
		if tag == "snapshot" {
			keep, err = time.ParseDuration(value)
		} else {
			size, err = humanize.ParseBytes(value)
		}
		if err != nil || keep < 0 {
			return nil, 0, fmt.Errorf("policy: %s: %q cannot be read", tag, value)
		}
		switch tag {
		case "snapshot":
			p.Snapshot = &wire.SnapshotPolicy{KeepForNs: int64(keep)}
		case "inline":
			if size > eggs.MaxInline {
				return nil, 0, fmt.Errorf("policy: inline: at most %d bytes", eggs.MaxInline)
			}
			p.Inline = &wire.InlinePolicy{MaxSize: uint32(size)}
		case "cell":
			if size == 0 || size%eggs.CellAlign != 0 || size > eggs.MaxSpan {
				return nil, 0, fmt.Errorf("policy: cell: a multiple of %d, at most %d", eggs.CellAlign, eggs.MaxSpan)
			}
			p.Stripe = &wire.StripePolicy{CellSize: uint32(size)}
		}
	}
	return p, clear, nil
}

func printPolicies(p eggs.Policies) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
	fmt.Fprintf(w, "snapshot\tkeep for %s, at least %d versions\n", p.Snapshot.KeepFor, p.Snapshot.KeepVersions)
	fmt.Fprintf(w, "inline\tup to %s\n", humanize.IBytes(uint64(p.Inline.MaxSize)))
	for _, s := range p.Span {
		fmt.Fprintf(w, "span\tup to %s: %s\n", humanize.IBytes(uint64(s.MaxSize)), s.Parity)
	}
	fmt.Fprintf(w, "cell\t%s\n", humanize.IBytes(uint64(p.Stripe.CellSize)))
	return w.Flush()
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: args(cobra.NoArgs),
		Run: func(*cobra.Command, []string) { fmt.Println("eggs", eggs.BuildVersion) },
	}
}
