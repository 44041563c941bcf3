package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/internal/mutant"
	"eggsfs/jepsen/harness"
	"eggsfs/jepsen/report"
)

// hunt says with what a planted bug is looked for.
type hunt struct {
	name      string // "": none, which must pass
	workloads []string
	nemeses   []string
	mounts    int
}

// hunts are all planted bugs, and first none of them under every fault used.
var hunts = []hunt{
	{
		"",
		[]string{"names", "tree", "files", "ledger", "blocks"},
		[]string{"partition-leader", "power-all", "kill-leader", "rot-blocks", "loss"},
		1,
	},
	{mutant.AckEarly, []string{"names", "ledger"}, []string{"partition-leader", "kill-leader", "power-all"}, 0},
	{mutant.StaleRead, []string{"names"}, []string{"partition-leader", "pause-one"}, 0},
	{mutant.SkipSync, []string{"ledger", "names"}, []string{"power-all"}, 0},
	{mutant.ForgetReply, []string{"names", "bank"}, []string{"kill-one", "partition-leader", "loss"}, 0},
	{mutant.PublishFlush, []string{"files"}, nil, 2},
	{mutant.DropLock, []string{"tree", "names"}, nil, 0},
	{mutant.NoBlockCRC, []string{"blocks"}, []string{"rot-blocks"}, 0},
}

func mutantsCommand() *cobra.Command {
	var only []string
	var tries int
	o := harness.Options{Nodes: 3}
	cmd := &cobra.Command{
		Use: "mutants", Short: "show that each planted bug is found", Args: cobra.NoArgs,
		Long: `mutants runs clusters with one known bug each (a build with the tag "mutants"), and
looks whether a checker finds it. It prints a table: which check of which workload, and
how soon. A run without any bug comes first and must pass.

Exit codes: 0 every bug was found, 1 one was not, 2 it could not run.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !mutant.Built {
				return errors.New("mutants: this build has no planted bugs; make mutants makes one that has")
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Bin, o.Pace, o.MountIO = filepath.Dir(self), 20*time.Millisecond, []string{self, mountIO}
			return huntAll(cmd.Context(), o, only, tries, cmd.OutOrStdout())
		},
	}
	cmd.Flags().DurationVar(&o.Time, "time", 40*time.Second, "of faults, in each run")
	cmd.Flags().IntVar(&tries, "tries", 3, "runs, each with another seed, until a bug counts as not found")
	cmd.Flags().StringVar(&o.Out, "out", "run/mutants", "folder of the reports")
	cmd.Flags().Uint64Var(&o.Seed, "seed", 1, "of the first run")
	cmd.Flags().StringSliceVar(&only, "only", nil, "these bugs only; none for the run without any")
	return cmd
}

func huntAll(ctx context.Context, o harness.Options, only []string, tries int, out io.Writer) error {
	var table strings.Builder
	table.WriteString("| planted bug | workloads | faults | found by | after |\n|---|---|---|---|---|\n")
	survived, found := 0, 0
	for _, h := range hunts {
		name := cmp.Or(h.name, "none")
		if len(only) > 0 && !slices.Contains(only, name) {
			continue
		}
		by, took, err := h.find(ctx, o, tries, out)
		if err != nil {
			return err
		}
		if h.name == "" {
			if by != "" {
				fmt.Fprintf(out, "without any bug: %s\n", by)
				survived++
			}
			continue
		}
		if by == "" {
			by = "**nothing**"
			survived++
		} else {
			found++
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s | %s |\n", name, strings.Join(h.workloads, ", "),
			strings.Join(h.nemeses, ", "), by, took.Round(time.Second))
	}
	fmt.Fprintf(out, "\n%s\n%d passed, %d failed\n", table.String(), found, survived)
	if survived > 0 {
		return errFailed
	}
	return nil
}

// find runs until a checker complains, and returns which one, and how long it took in all.
func (h hunt) find(ctx context.Context, o harness.Options, tries int, out io.Writer) (string, time.Duration, error) {
	begin := time.Now()
	o.Workloads, o.Nemeses, o.Mounts, o.Log = h.workloads, h.nemeses, h.mounts, out
	o.Env = []string{"EGGS_MUTANT=" + h.name}
	// A mutated client is this process's too: the library is part of it.
	if err := os.Setenv("EGGS_MUTANT", h.name); err != nil {
		return "", 0, err
	}
	if h.name == "" {
		tries = 1
	}
	base := o.Out
	for i := range tries {
		o.Seed++
		o.Out = filepath.Join(base, cmp.Or(h.name, "none"), fmt.Sprint(i+1))
		o.Command = "eggsjepsen mutants --only " + h.name
		fmt.Fprintf(out, "---- %s, run %d\n", cmp.Or(h.name, "none"), i+1)
		r, err := harness.Run(ctx, o)
		if err != nil { // a bug may well keep a cluster from starting
			if h.name == "" || ctx.Err() != nil {
				return "", 0, err
			}
			return "set-up: " + firstLine(err.Error()), time.Since(begin), nil
		}
		if by := finder(r); by != "" {
			return by, time.Since(begin), nil
		}
	}
	return "", time.Since(begin), nil
}

// finder is the first checker that complains of what the cluster did; a run that was
// too short to count, or a fault that nothing met, is no finding.
func finder(r *report.Report) string {
	for _, v := range r.Failures() {
		if v.Check != "worth" && v.Check != "fault" {
			return v.Check + ": " + firstLine(v.Text)
		}
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	if len(line) > 140 {
		line = line[:140] + "…"
	}
	return strings.ReplaceAll(line, "|", "/")
}
