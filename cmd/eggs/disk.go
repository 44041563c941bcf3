package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

func diskCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "disk", Short: "list, drain and retire disks", Args: args(cobra.NoArgs),
		Long: `A disk is named by its id or the beginning of it.

` + exitCodes,
	}
	cmd.AddCommand(diskListCommand(o), diskDrainCommand(o), diskNoWriteCommand(o), diskRetireCommand(o))
	return cmd
}

type diskRow struct {
	ID       string `json:"id"`
	Node     string `json:"node"`
	Path     string `json:"path,omitempty"`
	Class    string `json:"class"`
	State    string `json:"state"` // ok, no-write, draining, drained, not served or retired
	Capacity uint64 `json:"capacity_bytes"`
	Free     uint64 `json:"free_bytes"`
	Blocks   uint64 `json:"blocks"`
	Why      string `json:"why,omitempty"`
	Since    string `json:"since,omitempty"` // retired or silent
}

func (m *members) diskRow(f *wire.DiskFact) diskRow {
	r := diskRow{
		ID: eggs.DiskID(f.Id).String(), Node: eggs.NodeID(f.Node).String(), Class: className(f.Class), State: "ok",
		Why: f.Why,
	}
	s := m.disks[f.Id]
	if s != nil {
		r.Path, r.Capacity, r.Free, r.Blocks = s.Path, s.Capacity, s.Free, s.Blocks
	}
	since := int64(0)
	switch {
	case f.Retired:
		r.State, since = "retired", f.RetiredAt
	case s == nil:
		r.State, since = "not served", f.SilentSince
	case f.Draining && s.Blocks == 0:
		r.State = "drained"
	case f.Draining:
		r.State = "draining"
	case f.NoWrite:
		r.State = "no-write"
	}
	if since != 0 {
		r.Since = eggs.Time(since).Std().UTC().Format(time.RFC3339)
	}
	return r
}

func className(class uint32) string {
	switch uint8(class) {
	case eggs.ClassHDD:
		return "hdd"
	case eggs.ClassFlash:
		return "flash"
	}
	return "any"
}

func diskListCommand(o *options) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list", Short: "the disks, and what they hold", Args: args(cobra.NoArgs),
		Long: `list shows every disk: its node, its state (ok, no-write, draining, drained, not served) and
the blocks on it. With --all retired disks as well.

` + exitCodes,
		RunE: withMembers(o, func(_ context.Context, _ *client.Client, m *members, _ []string) error {
			rows := []diskRow{}
			for _, f := range m.facts.Disks {
				if all || !f.Retired {
					rows = append(rows, m.diskRow(f))
				}
			}
			if o.json() {
				return printJSON(rows)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 1, 2, ' ', 0)
			fmt.Fprintln(w, "DISK\tNODE\tCLASS\tSTATE\tBLOCKS\tFREE\tCAPACITY\tPATH")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.ID, r.Node, r.Class,
					strings.TrimSpace(r.State+" "+r.Since), r.Blocks, humanize.IBytes(r.Free),
					humanize.IBytes(r.Capacity), strings.TrimSpace(r.Path+" "+r.Why))
			}
			return w.Flush()
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "retired disks as well")
	return cmd
}

func diskDrainCommand(o *options) *cobra.Command {
	var undo, noWait bool
	cmd := &cobra.Command{
		Use: "drain DISK", Short: "move all blocks off a disk, while clients work", Args: args(cobra.ExactArgs(1)),
		Long: `drain moves a disk's blocks to other disks, and waits until it holds nothing; then 'eggs
disk retire' takes it out of use for ever. Ctrl-C ends the waiting only. --undo takes
the drain back.

` + exitCodes,
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, m *members, a []string) error {
			f, err := m.disk(a[0])
			if err != nil {
				return err
			}
			if err := putDisk(ctx, c, &wire.DiskFact{Id: f.Id, Draining: !undo}, maskDiskDraining); err != nil {
				return err
			}
			if undo || noWait {
				o.say("disk %s: draining %t", eggs.DiskID(f.Id), !undo)
				return nil
			}
			return waitDrained(ctx, o, "disk "+eggs.DiskID(f.Id).String(), func() (uint64, string, error) {
				m, err := readMembers(ctx, c)
				if err != nil {
					return 1, err.Error(), nil
				}
				if d := m.disks[f.Id]; d != nil && d.Blocks > 0 {
					return d.Blocks, fmt.Sprintf("%d blocks left", d.Blocks), nil
				}
				files, err := filesOnDisk(ctx, c, f.Id, 1000)
				return uint64(files), fmt.Sprintf("blocks of %d files left", files), err
			})
		}),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "take the drain back")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it holds nothing")
	return cmd
}

func diskNoWriteCommand(o *options) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use: "no-write DISK", Short: "put no new blocks on a disk", Args: args(cobra.ExactArgs(1)),
		Long: `no-write keeps new blocks off a disk; what is on it stays and is read. --undo takes it back.

` + exitCodes,
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, m *members, a []string) error {
			f, err := m.disk(a[0])
			if err != nil {
				return err
			}
			o.say("disk %s: no-write %t", eggs.DiskID(f.Id), !undo)
			return putDisk(ctx, c, &wire.DiskFact{Id: f.Id, NoWrite: !undo}, maskNoWrite)
		}),
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "new blocks may come again")
	return cmd
}

func diskRetireCommand(o *options) *cobra.Command {
	var lost bool
	cmd := &cobra.Command{
		Use: "retire DISK", Short: "take a disk out of use for ever", Args: args(cobra.ExactArgs(1)),
		Long: `retire takes a disk that holds nothing ('eggs disk drain' first) out of use. It cannot be
undone: the disk's identity is never used again, an emptied disk gets a new one.
--lost retires a disk whose content is gone: its blocks are rebuilt from parity.

` + exitCodes,
		RunE: withMembers(o, func(ctx context.Context, c *client.Client, m *members, a []string) error {
			f, err := m.disk(a[0])
			if err != nil {
				return err
			}
			why := "asked for, empty"
			if lost {
				why = "asked for, declared lost"
			} else if !f.Retired {
				if err := emptyDisk(ctx, c, "eggs disk retire", f.Id); err != nil {
					return err
				}
			}
			if err := putDisk(ctx, c, &wire.DiskFact{Id: f.Id, Retired: true, Why: why}, maskRetired); err != nil {
				return err
			}
			o.say("disk %s is retired", eggs.DiskID(f.Id))
			return nil
		}),
	}
	cmd.Flags().BoolVar(&lost, "lost", false, "what is on it is gone")
	return cmd
}
