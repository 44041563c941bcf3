package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"eggsfs/jepsen/harness"
	"eggsfs/jepsen/history"
	"eggsfs/jepsen/nemesis"
	"eggsfs/jepsen/workload"
)

// mixed is what "--nemesis mixed" stands for: one fault of each sort.
var mixed = []string{
	"kill-one", "kill-minority", "kill-all", "pause-one", "partition-halves", "partition-leader", "partition-ring",
	"slow", "loss", "disk-slow", "power-all", "power-one", "rot-blocks", "rolling", "leaders", "kill-mount",
}

// flags are those of run.
type flags struct {
	o         harness.Options
	workloads []string
	nemeses   []string
	runs      int
	soak      time.Duration
}

func runCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use: "run", Short: "run workloads under faults, and judge", Args: cobra.NoArgs,
		Long: `run does one run, or several with --runs or --soak, each with the next seed. The last
line is "N passed, N failed". A seed decides which fault comes when, to whom; the
history is whatever the cluster made of it.

Exit codes: 0 all passed, 1 something failed, 2 it could not run.`,
		Example: `  eggsjepsen run --nodes 5 --time 120s --workload names,bank --nemesis kill-one,partition-halves
  eggsjepsen run --nemesis all --soak 8h`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	l := cmd.Flags()
	l.SortFlags = false
	l.IntVar(&f.o.Nodes, "nodes", 5, "servers, 1 to 9")
	l.DurationVar(&f.o.Time, "time", 2*time.Minute, "how long clients work under faults")
	l.StringSliceVar(&f.workloads, "workload", []string{"all"}, "names from list, or all")
	l.StringSliceVar(&f.nemeses, "nemesis", []string{"mixed"}, "names from list, mixed, all, or none")
	l.Uint64Var(&f.o.Seed, "seed", 0, "of the schedule (default: by chance)")
	l.StringVar(&f.o.Out, "out", "run/jepsen", "folder of the report")
	l.StringVar(&f.o.Bin, "bin", "", "folder of the binaries (default: this one's)")
	l.IntVar(&f.o.Mounts, "mounts", 1, "mounts that files go through")
	l.DurationVar(&f.o.Pace, "pace", 40*time.Millisecond, "mean pause of each worker between operations")
	l.BoolVar(&f.o.Loopback, "loopback", false, "no network namespaces: no faults of the network")
	l.BoolVar(&f.o.Keep, "keep", false, "keep the data of a run that has passed")
	l.IntVar(&f.runs, "runs", 1, "runs, each with the next seed, in folders by seed below --out")
	l.DurationVar(&f.soak, "soak", 0, "runs until this time is over or one fails")
	return cmd
}

func (f *flags) run(ctx context.Context, out io.Writer) error {
	if err := f.fill(out); err != nil {
		return err
	}
	begin, passed, failed := time.Now(), 0, 0
	base, seed := f.o.Out, f.o.Seed
	for i := 0; i < f.runs || time.Since(begin) < f.soak; i++ {
		o := f.o
		o.Seed, o.Log = seed+uint64(i), out
		if f.runs > 1 || f.soak > 0 {
			o.Out = filepath.Join(base, fmt.Sprint(o.Seed))
		}
		o.Command = command(o)
		r, err := harness.Run(ctx, o)
		if err != nil {
			fmt.Fprintf(out, "seed %d: could not run\n%d passed, %d failed\n", o.Seed, passed, failed)
			return err
		}
		for _, l := range r.Loads {
			fmt.Fprintf(out, "%-9s %6d acknowledged, %5d refused, %4d unknown, p50 %s, p99 %s, longest gap %s\n",
				l.Name, l.OK, l.Fail, l.Unknown, round(l.P50), round(l.P99), round(l.Gap))
		}
		for _, v := range r.Verdicts {
			word := "ok    "
			if !v.OK {
				word = "FAILED"
			}
			fmt.Fprintf(out, "%s %s: %s\n", word, v.Check, v.Text)
		}
		fmt.Fprintf(out, "%d faults, report: %s\n", len(r.Faults), filepath.Join(o.Out, "report.html"))
		if r.Passed {
			passed++
			continue
		}
		failed++
		fmt.Fprintf(out, "run it again: %s\n", o.Command)
		if f.soak > 0 {
			break
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return errFailed
	}
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// mountCommand is what the harness starts for what goes through mounts.
func mountCommand() *cobra.Command {
	return &cobra.Command{
		Use: mountIO, Short: "read and write files of a mount, as told on standard input", Hidden: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return workload.ServeMount(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

const mountIO = "mount-io"

// fill makes names of words such as all, and finds the binaries.
func (f *flags) fill(out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f.o.MountIO = []string{self, mountIO}
	if f.o.Bin == "" {
		f.o.Bin = filepath.Dir(self)
	}
	if f.o.Seed == 0 {
		f.o.Seed = uint64(1 + rand.IntN(1_000_000))
	}
	for _, w := range f.workloads {
		if w == "all" {
			for _, each := range workload.All() {
				f.o.Workloads = append(f.o.Workloads, each.Name())
			}
			continue
		}
		f.o.Workloads = append(f.o.Workloads, w)
	}
	for _, n := range f.nemeses {
		switch n {
		case "none":
		case "mixed", "all":
			f.o.Nemeses = append(f.o.Nemeses, f.possible(n, out)...)
		default:
			f.o.Nemeses = append(f.o.Nemeses, n)
		}
	}
	return nil
}

// possible are the faults of a group that can be done here, and says which cannot.
func (f *flags) possible(group string, out io.Writer) []string {
	var not nemesis.Needs
	if os.Getuid() != 0 || f.o.Loopback {
		not |= nemesis.Network
	}
	if os.Getuid() != 0 {
		not |= nemesis.Disks
	}
	if f.o.Nodes < 3 {
		not |= nemesis.Many
	}
	if f.o.Mounts == 0 {
		not |= nemesis.Mounts
	}
	if !harness.HasClock(f.o.Bin) {
		not |= nemesis.Clocks
	}
	var some, left []string
	for _, k := range nemesis.Kinds() {
		switch {
		case group == "mixed" && !slices.Contains(mixed, k.Name):
		case k.Needs&not != 0:
			left = append(left, k.Name)
		default:
			some = append(some, k.Name)
		}
	}
	if len(left) > 0 {
		fmt.Fprintf(out, "cannot be done here, and is left out: %s\n", strings.Join(left, ", "))
	}
	return some
}

// command is what runs this again.
func command(o harness.Options) string {
	nemeses := strings.Join(o.Nemeses, ",")
	if nemeses == "" {
		nemeses = "none"
	}
	s := fmt.Sprintf("eggsjepsen run --nodes %d --time %s --workload %s --nemesis %s --seed %d --mounts %d --pace %s",
		o.Nodes, o.Time, strings.Join(o.Workloads, ","), nemeses, o.Seed, o.Mounts, o.Pace)
	if o.Loopback {
		s += " --loopback"
	}
	return s
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list workloads and faults", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, "Workloads:")
			for _, w := range workload.All() {
				fmt.Fprintf(out, "  %-18s %s\n", w.Name(), workload.About[w.Name()])
			}
			fmt.Fprintln(out, "\nFaults (* is among mixed):")
			for _, k := range nemesis.Kinds() {
				star := ""
				if slices.Contains(mixed, k.Name) {
					star = "*"
				}
				fmt.Fprintf(out, "  %-18s %s\n", k.Name+star, k.About)
			}
			return nil
		},
	}
}

// judgeCommand judges a recorded history again, with the checkers as they are now.
func judgeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "judge HISTORY", Short: "judge a history.jsonl again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, a []string) error {
			in, err := os.Open(a[0])
			if err != nil {
				return err
			}
			defer in.Close()
			events, err := history.Read(in)
			if err != nil {
				return err
			}
			passed, failed := 0, 0
			for _, w := range workload.All() {
				some := history.Of(events, w.Name())
				if len(some) == 0 {
					continue
				}
				for _, v := range w.Check(some, filepath.Dir(a[0])) {
					if v.OK {
						passed++
					} else {
						failed++
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%t %s: %s\n%s", v.OK, v.Check, v.Text,
						strings.Join(append(v.Excerpt, ""), "\n"))
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d passed, %d failed\n", passed, failed)
			if failed > 0 || passed == 0 {
				return errFailed
			}
			return nil
		},
	}
}
