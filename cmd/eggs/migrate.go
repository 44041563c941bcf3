package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sort"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/upkeep"
	"eggsfs/wire"
)

// progressEvery is how often long work says how far it is, where nobody watches a bar.
const progressEvery = 10 * time.Second

func migrateCommand(o *options) *cobra.Command {
	var disks []string
	var rate string
	cmd := &cobra.Command{
		Use: "migrate", Short: "move blocks off leaving disks now", Args: args(cobra.NoArgs),
		Long: `migrate makes the blocks of disks that are retired or draining anew on others,
copied where they can be read and rebuilt from parity where not, as the nodes do by
themselves, but from here and at once. The old blocks are erased by the nodes' collectors
within a minute or two. It may be stopped and started again at any time.

Exit codes: 0 all that could be moved is (a file under construction is moved when it is finished), 6 some
could not be, and the rest as always.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			limit, err := parseRate(rate)
			if err != nil {
				return err
			}
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			chosen, err := chooseLeaving(ctx, c, disks)
			if err != nil {
				return err
			}
			if len(chosen) == 0 {
				o.say("no disk is leaving")
				return nil
			}
			m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: limit})
			stop := tellProgress(ctx, o, func(took time.Duration) string { return migrateLine(m.Stats(), took) })
			st, err := m.Once(ctx, chosen)
			stop()
			if o.json() {
				if perr := printJSON(map[string]uint64{
					"spans": st.Spans, "blocks": st.Blocks, "bytes": st.Bytes, "rebuilt": st.Rebuilt,
					"failed": st.Failed, "lost_spans": st.Lost,
				}); err == nil {
					err = perr
				}
			}
			o.say("%d blocks of %d spans have new places, %d of them rebuilt", st.Blocks, st.Spans, st.Rebuilt)
			if err != nil {
				return partlyError{err}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&disks, "disk", nil, "only this disk, by its id; may be given more than once")
	cmd.Flags().StringVar(&rate, "rate", "", "bytes a second, such as 200MiB; default: no limit")
	return cmd
}

func parseRate(s string) (int64, error) {
	if s == "" {
		return -1, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n == 0 || n > 1<<50 {
		return 0, usageError{fmt.Errorf("--rate %s: not a number of bytes", s)}
	}
	return int64(n), nil
}

// chooseLeaving returns the disks named, or all that are leaving.
func chooseLeaving(ctx context.Context, c *client.Client, names []string) ([]eggs.DiskID, error) {
	a, err := c.QueryCDC(ctx, &wire.CdcQuery{Query: &wire.CdcQuery_GetFacts{GetFacts: &wire.GetFacts{}}})
	if err != nil {
		return nil, err
	}
	leaving := upkeep.LeavingDisks(a.Facts)
	var out []eggs.DiskID
	for _, s := range names {
		n, err := eggs.ParseNodeID(s)
		if err != nil {
			return nil, usageError{fmt.Errorf("--disk %s: not a disk's id", s)}
		}
		if leaving[eggs.DiskID(n)] == upkeep.Stays {
			return nil, usageError{fmt.Errorf(
				"--disk %s: it is neither draining nor retired; 'eggs disk drain' comes first", s)}
		}
		out = append(out, eggs.DiskID(n))
	}
	if names == nil {
		for d := range leaving {
			out = append(out, d)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i] < out[j] })
	return out, nil
}

func migrateLine(st upkeep.MigratorStats, took time.Duration) string {
	s := fmt.Sprintf("%d files to look at, %d blocks made anew, %s", st.Queued, st.Blocks, humanize.IBytes(st.Bytes))
	if took > time.Second {
		s += fmt.Sprintf(" (%s/s)", humanize.IBytes(uint64(float64(st.Bytes)/took.Seconds())))
	}
	return s
}

// tellProgress says now and then how far work is, until stop is called.
func tellProgress(ctx context.Context, o *options, line func(took time.Duration) string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	began := time.Now()
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(progressEvery):
				o.say("%s", line(time.Since(began)))
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func scrubCommand(o *options) *cobra.Command {
	var rate string
	cmd := &cobra.Command{
		Use: "scrub [PATH]", Short: "verify blocks and mend the bad ones", Args: args(cobra.MaximumNArgs(1)),
		Long: `scrub has the disks read and verify all blocks of the files at and below PATH, or of
the whole cluster, and makes those anew that are missing or wrong. The nodes do the same
by themselves, slowly.

Exit codes: 0 all good, or mended; 6 some blocks could not be checked or mended; and the rest as always.`,
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			limit, err := parseRate(rate)
			if err != nil {
				return err
			}
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			m := upkeep.NewMigrator(upkeep.MigratorConfig{Client: c, Rate: -1})
			s := upkeep.NewScrubber(upkeep.ScrubberConfig{Client: c, Rate: limit, Bad: m.Report})
			stop := tellProgress(ctx, o, func(time.Duration) string {
				st := s.Stats()
				return fmt.Sprintf("%d files, %s checked, %d blocks bad", st.Files, humanize.IBytes(st.Bytes), st.Bad)
			})
			if len(a) == 0 {
				err = s.All(ctx)
			} else {
				err = scrubBelow(ctx, c, s, a[0])
			}
			var mended upkeep.MigratorStats
			if err == nil {
				mended, err = m.Once(ctx, []eggs.DiskID{})
			}
			stop()
			return scrubbed(o, s.Stats(), mended, err)
		},
	}
	cmd.Flags().StringVar(&rate, "rate", "", "bytes a second that disks read, such as 200MiB; default: no limit")
	return cmd
}

// scrubbed says what was found.
func scrubbed(o *options, st upkeep.ScrubStats, mended upkeep.MigratorStats, err error) error {
	if o.json() {
		perr := printJSON(map[string]any{
			"files": st.Files, "blocks": st.Blocks, "bytes": st.Bytes, "bad": st.Bad, "skipped": st.Skipped,
			"mended": mended.Blocks,
		})
		if err == nil {
			err = perr
		}
	}
	o.say("%d files, %d good blocks, %s; %d bad, %d mended, %d on disks out of reach", st.Files, st.Blocks,
		humanize.IBytes(st.Bytes), st.Bad, mended.Blocks, st.Skipped)
	switch {
	case err != nil && st.Files > 0:
		return partlyError{err}
	case err == nil && (mended.Blocks < st.Bad || st.Skipped > 0):
		return partlyError{errors.New("some blocks could not be checked or mended; see eggs explain")}
	}
	return err
}

func scrubBelow(ctx context.Context, c *client.Client, s *upkeep.Scrubber, p string) error {
	p, err := cleanPath(p)
	if err != nil {
		return err
	}
	a, err := c.Walk(ctx, p)
	if err != nil {
		return err
	}
	if a.ID.Kind() == eggs.KindFile {
		return s.File(ctx, a.ID)
	}
	if !a.ID.IsDir() {
		return nil
	}
	for after := uint64(0); ; {
		entries, _, end, err := c.ReadDir(ctx, a.ID, after, 1000, false)
		if err != nil {
			return err
		}
		for _, x := range entries {
			after = x.Cursor
			if err := scrubBelow(ctx, c, s, path.Join(p, x.Name)); err != nil && eggs.KindOf(err) != eggs.NotExist {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

func eventsCommand(o *options) *cobra.Command {
	var last int
	var follow bool
	cmd := &cobra.Command{
		Use: "events", Short: "what happened lately, on all nodes", Args: args(cobra.NoArgs),
		Long: `events shows what the nodes remember of what an operator should know, oldest first;
each node keeps its last hundred since it started. With --follow it goes on.

` + exitCodes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := o.open(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			newest := int64(0)
			for {
				st, err := c.ClusterStatus(ctx)
				if err != nil {
					return err
				}
				all := eventsOf(st, newest)
				if len(all) > last {
					all = all[len(all)-last:]
				}
				if err := showEvents(o, all, follow); err != nil {
					return err
				}
				if len(all) > 0 {
					newest = all[len(all)-1].Nanoseconds
				}
				if !follow {
					return nil
				}
				last = 1 << 30
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	cmd.Flags().IntVarP(&last, "last", "n", 100, "how many")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C")
	return cmd
}

type shownEvent struct {
	Time        string `json:"time"`
	Node        string `json:"node"`
	Level       string `json:"level"`
	Text        string `json:"text"`
	Nanoseconds int64  `json:"time_ns"`
}

// eventsOf lists the events of all nodes that are newer, oldest first.
func eventsOf(st *client.ClusterStatus, newer int64) []shownEvent {
	all := []shownEvent{}
	for _, n := range st.Nodes {
		for _, e := range n.Events {
			if e.Time > newer {
				all = append(all, shownEvent{
					Time: eggs.Time(e.Time).Std().Format(time.RFC3339), Node: eggs.NodeID(n.Id).String(),
					Level: e.Level, Text: e.Text, Nanoseconds: e.Time,
				})
			}
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Nanoseconds < all[j].Nanoseconds })
	return all
}

func showEvents(o *options, all []shownEvent, follow bool) error {
	if o.json() && !follow {
		return printJSON(all)
	}
	for _, e := range all {
		if o.json() {
			if err := printJSON(e); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(os.Stdout, "%s  %s  %-5s  %s\n", e.Time, e.Node[:8], e.Level, e.Text)
	}
	return nil
}

// addLeft has a status say what is still on disks that blocks leave.
func addLeft(ctx context.Context, c *client.Client, st *client.ClusterStatus) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // a status is wanted most when little answers
	defer cancel()
	all, err := chooseLeaving(ctx, c, nil)
	if err != nil || len(all) == 0 {
		return err
	}
	left, err := upkeep.LeftOn(ctx, c, all)
	if err != nil {
		return err
	}
	for _, d := range all {
		if n := left[d]; n.Blocks > 0 {
			st.Problems = append(st.Problems, &wire.Problem{
				What:  fmt.Sprintf("disk %s is leaving and still has %d blocks of %d files", d, n.Blocks, n.Files),
				Doing: "the nodes make them anew on other disks",
			})
			if st.Health == client.Healthy {
				st.Health = client.Degraded
			}
		}
	}
	return nil
}
