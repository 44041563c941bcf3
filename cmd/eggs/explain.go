package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// explained is what explain says of one file.
type explained struct {
	Path     string          `json:"path"`
	ID       string          `json:"id"`
	Size     int64           `json:"size_bytes"`
	Shard    int             `json:"shard"`
	Group    int             `json:"group"`
	Leader   string          `json:"leader"`
	Voters   []string        `json:"voters"`
	Spans    []explainedSpan `json:"spans"`
	Full     bool            `json:"full_redundancy"`
	Readable bool            `json:"readable"`
	// How many disks, or failure domains, may be lost, whichever they are.
	Disks   int `json:"survives_disks"`
	Domains int `json:"survives_domains"`
}

type explainedSpan struct {
	Offset  int64            `json:"offset"`
	Size    int64            `json:"size_bytes"`
	Parity  string           `json:"parity"`
	Good    int              `json:"good_blocks"`
	Disks   int              `json:"survives_disks"`
	Domains int              `json:"survives_domains"`
	Crowded bool             `json:"crowded"` // a domain has more blocks of it than it must
	Blocks  []explainedBlock `json:"blocks"`
}

type explainedBlock struct {
	Block  string `json:"block"`
	Disk   string `json:"disk"`
	Node   string `json:"node"`
	Domain string `json:"domain"`
	State  string `json:"state"` // good, draining, out of reach, retired, missing, wrong
}

func explainCommand(o *options) *cobra.Command {
	var recursive, check, exit bool
	cmd := &cobra.Command{
		Use: "explain PATH", Short: "where a file is, and what may still be lost", Args: args(cobra.ExactArgs(1)),
		Long: `explain says which shard and group keep a file's metadata, who leads it, on which
disks, nodes and failure domains its blocks are and how they are, and how many disks
or domains may be lost, whichever they are, before bytes are. A span that has more blocks in
a failure domain than it must, as the others stand now, has less than full redundancy.

With -r it says so of all files below PATH, a line each. With --check the disks
verify each block first. With --exit-code: 0 full redundancy, 1 less, 2 not readable.
Otherwise: ` + exitCodes,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			p, err := cleanPath(a[0])
			if err != nil {
				return err
			}
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			e := &explainer{c: c, check: check}
			if err := e.load(ctx); err != nil {
				return err
			}
			all, err := e.below(ctx, p, recursive)
			if err != nil {
				return err
			}
			switch {
			case o.json() && recursive:
				err = printJSON(all)
			case o.json():
				err = printJSON(all[0])
			case recursive:
				err = printExplainedLines(all)
			default:
				err = printExplained(all[0])
			}
			if err != nil || !exit {
				return err
			}
			return worst(all)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&recursive, "recursive", "r", false, "all files below PATH")
	f.BoolVar(&check, "check", false, "have the disks verify each block")
	f.BoolVar(&exit, "exit-code", false, "0 full redundancy, 1 less, 2 not readable")
	return cmd
}

func worst(all []*explained) error {
	code := 0
	for _, x := range all {
		switch {
		case !x.Readable:
			return codeError{2}
		case !x.Full:
			code = 1
		}
	}
	if code != 0 {
		return codeError{code}
	}
	return nil
}

// explainer knows the cluster as it was when load was called.
type explainer struct {
	c       *client.Client
	check   bool
	leaving map[eggs.DiskID]upkeep.Leaving
	groups  map[uint32]*wire.PutReplicas
	disks   map[uint64]*wire.RouteDisk
	home    map[uint64]uint64 // disk → the node where it was last seen
	alive   map[uint64]bool
	ground  *upkeep.Ground
	leaders []uint64
}

func (e *explainer) load(ctx context.Context) error {
	a, err := e.c.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		return err
	}
	e.leaving = upkeep.LeavingDisks(a.Facts)
	e.groups, e.home = map[uint32]*wire.PutReplicas{}, map[uint64]uint64{}
	for _, g := range a.Facts.GetGroups() {
		e.groups[g.Group] = g
	}
	for _, d := range a.Facts.GetDisks() {
		e.home[d.Id] = d.Node
	}
	r := e.c.Routes()
	e.ground = upkeep.GroundOf(r)
	e.disks, e.alive, e.leaders = map[uint64]*wire.RouteDisk{}, map[uint64]bool{}, r.GetLeaders()
	for _, d := range r.GetDisks() {
		e.disks[d.Id] = d
	}
	for _, n := range r.GetNodes() {
		e.alive[n.Id] = n.Alive
	}
	return nil
}

// below explains one file, or all files below a directory.
func (e *explainer) below(ctx context.Context, p string, recursive bool) ([]*explained, error) {
	a, err := e.c.Walk(ctx, p)
	if err != nil {
		return nil, err
	}
	if !recursive || a.ID.Kind() == eggs.KindFile {
		x, err := e.file(ctx, p, a)
		return []*explained{x}, err
	}
	all := []*explained{}
	for after := uint64(0); ; {
		entries, _, end, err := e.c.ReadDir(ctx, a.ID, after, 1000, false)
		if err != nil {
			return all, err
		}
		for _, x := range entries {
			after = x.Cursor
			if k := x.Target.Kind(); k != eggs.KindFile && k != eggs.KindDirectory {
				continue
			}
			more, err := e.below(ctx, path.Join(p, x.Name), true)
			if eggs.KindOf(err) == eggs.NotExist {
				continue // it went while we looked
			}
			if err != nil {
				return all, err
			}
			all = append(all, more...)
		}
		if end {
			return all, nil
		}
	}
}

func (e *explainer) file(ctx context.Context, p string, a client.Attr) (*explained, error) {
	shard := a.ID.Shard()
	g := uint32(shard.Group())
	x := &explained{
		Path: p, ID: a.ID.String(), Size: a.Size, Shard: int(shard), Group: int(g),
		Voters: []string{}, Spans: []explainedSpan{}, Full: true, Readable: true,
	}
	if int(g) < len(e.leaders) {
		x.Leader = eggs.NodeID(e.leaders[g]).String()
	}
	voters, here := 0, 0
	for _, v := range e.groups[g].GetVoters() {
		x.Voters = append(x.Voters, eggs.NodeID(v).String())
		if voters++; e.alive[v] {
			here++
		}
	}
	most := here - voters/2 - 1 // nodes that its metadata can lose
	x.Full = here == voters
	x.Readable = most >= 0
	x.Disks, x.Domains = 1<<30, max(most, 0)
	if a.ID.Kind() != eggs.KindFile {
		x.Disks = 0
		return x, nil
	}
	for offset := int64(0); ; {
		spans, next, err := e.c.BlockSpans(ctx, a.ID, offset)
		if err != nil {
			return nil, err
		}
		for _, s := range spans {
			y := e.span(ctx, s)
			x.Full = x.Full && y.Good == len(y.Blocks) && !y.Crowded
			x.Readable = x.Readable && y.Disks >= 0
			x.Disks, x.Domains = min(x.Disks, max(y.Disks, 0)), min(x.Domains, max(y.Domains, 0))
			x.Spans = append(x.Spans, y)
		}
		if offset = next; next == 0 {
			break
		}
	}
	if len(x.Spans) == 0 { // all of it lives with the metadata
		x.Disks = x.Domains
	}
	return x, nil
}

func (e *explainer) span(ctx context.Context, s *client.BlockSpan) explainedSpan {
	y := explainedSpan{Offset: s.Offset, Size: s.Size, Parity: s.Parity.String(), Crowded: e.ground.Crowded(s)}
	domains := map[string]int{}
	for _, b := range s.Blocks {
		x := explainedBlock{
			Block: eggs.BlockID(b.Block).String(), Disk: eggs.DiskID(b.Disk).String(), State: "good",
		}
		d := e.disks[b.Disk]
		node := e.home[b.Disk]
		if d != nil {
			node, x.Domain = d.Node, d.Domain
		}
		x.Node = eggs.NodeID(node).String()
		switch why := e.leaving[eggs.DiskID(b.Disk)]; {
		case why == upkeep.Retired:
			x.State = "retired"
		case d == nil || !e.alive[d.Node]:
			x.State = "out of reach"
		case why == upkeep.Draining:
			x.State = "draining"
		}
		if e.check && (x.State == "good" || x.State == "draining") {
			switch eggs.KindOf(e.c.CheckBlock(ctx, b)) {
			case eggs.Other:
			case eggs.NotExist:
				x.State = "missing"
			case eggs.Corrupt:
				x.State = "wrong"
			default:
				x.State = "out of reach"
			}
		}
		if x.State == "good" || x.State == "draining" {
			y.Good++
			domains[x.Domain]++
		}
		y.Blocks = append(y.Blocks, x)
	}
	y.Disks = y.Good - int(s.Parity.D)
	y.Domains = survivesDomains(domains, y.Disks)
	return y
}

// survivesDomains is how many domains may be lost, whichever they are, when spare
// blocks may be.
func survivesDomains(blocks map[string]int, spare int) int {
	var counts []int
	for _, n := range blocks {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	slices.Reverse(counts)
	for i, n := range counts {
		if spare -= n; spare < 0 {
			return i
		}
	}
	return len(counts)
}

func (x *explained) verdict() string {
	switch {
	case !x.Readable:
		return "NOT READABLE now"
	case x.Full:
		return fmt.Sprintf("full redundancy: survives the loss of any %d disks, or of any %d failure domains",
			x.Disks, x.Domains)
	}
	return fmt.Sprintf("DEGRADED: survives the loss of any %d disks, or of any %d failure domains",
		x.Disks, x.Domains)
}

func printExplainedLines(all []*explained) error {
	full := 0
	for _, x := range all {
		if x.Full {
			full++
		}
		fmt.Printf("%s: %s\n", x.Path, x.verdict())
	}
	fmt.Printf("%d files, %d of them with full redundancy\n", len(all), full)
	return nil
}

func crowdedWord(crowded bool) string {
	if crowded {
		return ", crowded: other failure domains could take some"
	}
	return ""
}

func printExplained(x *explained) error {
	fmt.Printf("%s (inode %s, %s)\n", x.Path, x.ID, humanize.IBytes(uint64(x.Size)))
	fmt.Printf("metadata: shard %d, group %d, led by %s, voters %v\n", x.Shard, x.Group, x.Leader, x.Voters)
	fmt.Println(x.verdict())
	for _, s := range x.Spans {
		fmt.Printf("\nspan at %d, %s, %s: %d of %d blocks good%s\n", s.Offset, humanize.IBytes(uint64(s.Size)),
			s.Parity, s.Good, len(s.Blocks), crowdedWord(s.Crowded))
		w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
		for i, b := range s.Blocks {
			fmt.Fprintf(w, "  %d\tblock %s\tdisk %s\tnode %s\tdomain %s\t%s\n",
				i, b.Block, b.Disk, b.Node, b.Domain, b.State)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}
