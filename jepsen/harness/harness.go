// Package harness is one run: set up a cluster and its clients, torment it by a
// schedule while workloads record what they see, heal it, ask whether it lives, and
// judge. Everything is bounded in time, and goes when the run ends.
package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/jepsen/check"
	"eggsfs/jepsen/history"
	"eggsfs/jepsen/lossy"
	"eggsfs/jepsen/nemesis"
	"eggsfs/jepsen/netns"
	"eggsfs/jepsen/report"
	"eggsfs/jepsen/workload"
)

// Bounds of the phases besides the torment.
const (
	setupLimit  = 3 * time.Minute
	healLimit   = 3 * time.Minute
	liveLimit   = 60 * time.Second // after healing, every group works
	finalLimit  = 4 * time.Minute
	emptyLimit  = 4 * time.Minute
	liveWrites  = 64
	clients     = 4
	leastFaults = 3
	leastAcked  = 1000 // of each workload, in a run of at least a minute
)

// Options say what to run.
type Options struct {
	Bin       string // folder of the binaries
	Out       string // folder of the report; data is below it until the run has passed
	Nodes     int
	Time      time.Duration // of the torment
	Workloads []string
	Nemeses   []string
	Seed      uint64
	Mounts    int
	Pace      time.Duration // mean pause of a worker between operations
	Loopback  bool
	Keep      bool     // data too, of a run that has passed
	Env       []string // of the binaries
	Command   string   // what runs this again
	MountIO   []string // command that runs workload.ServeMount
	Log       io.Writer
}

// run is what is under way.
type run struct {
	o       Options
	needs   nemesis.Needs
	cluster *netns.Cluster
	disks   []*lossy.FS
	clocks  []string
	mounts  []*netns.Mount
	clients []*client.Client
	loads   []workload.Workload
	envs    []*workload.Env
	rec     *history.Recorder
	rep     *report.Report
}

// Run does one run and writes its report. The error says that it could not run; what
// went wrong in it is in the report.
func Run(ctx context.Context, o Options) (*report.Report, error) {
	r := &run{o: o, needs: nemesis.Want(o.Nemeses)}
	steps, err := nemesis.Schedule(o.Nemeses, o.Time, o.Seed)
	if err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return nil, err
	}
	if r.rec, err = history.NewRecorder(filepath.Join(o.Out, "history.jsonl")); err != nil {
		return nil, err
	}
	r.rep = &report.Report{
		Seed: o.Seed, Nodes: o.Nodes, Time: o.Time, Nemeses: o.Nemeses, Command: o.Command, Started: time.Now(),
		Version: eggs.BuildVersion, Schedule: steps,
	}
	defer r.close()
	begin := r.rec.Now()
	if err := r.setup(ctx); err != nil {
		return nil, fmt.Errorf("set-up: %w\n%s", err, r.tails())
	}
	r.phase("set-up", begin)
	r.torment(ctx, steps)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r.finish(ctx)
	r.judge()
	if err := r.rec.Close(); err != nil {
		return nil, err
	}
	return r.rep, r.rep.Write(o.Out, r.rec.Events())
}

// check refuses what cannot work, in words.
func (r *run) check() error {
	for _, b := range []string{"eggsnode", "eggs", "eggsfuse"} {
		if _, err := os.Stat(filepath.Join(r.o.Bin, b)); err != nil {
			return fmt.Errorf("harness: no binary: %w; make build makes it", err)
		}
	}
	root := os.Getuid() == 0
	switch {
	case r.needs&nemesis.Network != 0 && (!root || r.o.Loopback):
		return netns.ErrNoNamespaces
	case r.needs&nemesis.Disks != 0 && !root:
		return errors.New("harness: faults of disks need root")
	case r.needs&nemesis.Many != 0 && r.o.Nodes < 3:
		return errors.New("harness: these faults need three nodes or more")
	case r.needs&nemesis.Clocks != 0 && !HasClock(r.o.Bin):
		return errors.New("harness: these binaries have no clock to set")
	}
	for _, name := range r.o.Workloads {
		i := slices.IndexFunc(workload.All(), func(w workload.Workload) bool { return w.Name() == name })
		if i < 0 {
			return fmt.Errorf("harness: there is no workload %q; see eggsjepsen list", name)
		}
		r.loads = append(r.loads, workload.All()[i])
	}
	if r.needs&nemesis.Mounts != 0 && r.o.Mounts == 0 {
		r.o.Mounts = 1
	}
	return nil
}

// HasClock reports whether the binaries have a clock that can be set.
func HasClock(bin string) bool {
	return exec.Command(filepath.Join(bin, "eggsnode"), "--unsafe-test-knobs", "--test-clock-file", "x",
		"--version").Run() == nil
}

func (r *run) say(format string, a ...any) {
	fmt.Fprintf(r.o.Log, "%8.2fs  %s\n", float64(r.rec.Now())/1e9, fmt.Sprintf(format, a...))
}

func (r *run) phase(name string, begin int64) {
	r.rep.Phases = append(r.rep.Phases, report.Phase{Name: name, Begin: begin, End: r.rec.Now()})
}

func (r *run) verdict(v check.Verdict) {
	r.rep.Verdicts = append(r.rep.Verdicts, v)
	if !v.OK {
		r.say("FAILED %s: %s", v.Check, v.Text)
	}
}

// step is a verdict on something that must succeed.
func (r *run) step(name, good string, err error) {
	if err != nil {
		r.verdict(check.Verdict{Check: name, Text: err.Error()})
		return
	}
	r.verdict(check.Verdict{Check: name, OK: true, Text: good})
}

func (r *run) setup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupLimit)
	defer cancel()
	data, err := filepath.Abs(filepath.Join(r.o.Out, "data"))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(data); err != nil { // an earlier run's
		return err
	}
	cfg := netns.Config{
		Bin: r.o.Bin, Dir: data, Nodes: r.o.Nodes, Env: r.o.Env, Loopback: r.o.Loopback,
		Args: []string{"--block-services", "4", "--gc-interval", "3s"},
	}
	if r.needs&nemesis.Clocks != 0 {
		for i := range r.o.Nodes {
			r.clocks = append(r.clocks, filepath.Join(data, fmt.Sprintf("clock%d", i+1)))
		}
		cfg.NodeArgs = func(n int) []string {
			return []string{"--unsafe-test-knobs", "--test-clock-file", r.clocks[n]}
		}
	}
	if r.cluster, err = netns.New(cfg); err != nil {
		return err
	}
	for _, c := range r.clocks {
		if err := os.WriteFile(c, []byte("0"), 0o644); err != nil {
			return err
		}
	}
	if r.needs&nemesis.Disks != 0 {
		for _, n := range r.cluster.Nodes() {
			fs, err := lossy.Mount(n.Data, n.Data+".store", fmt.Sprint(netns.FSPrefix, os.Getpid()))
			if err != nil {
				return err
			}
			r.disks = append(r.disks, fs)
		}
	}
	if err := r.cluster.Start(ctx); err != nil {
		return err
	}
	r.say("%d nodes are ready", r.o.Nodes)
	return r.open(ctx)
}

// open makes clients, mounts and the workloads' directories.
func (r *run) open(ctx context.Context) error {
	for range clients + 1 { // the last one is the nemesis's
		c, err := r.cluster.Client(ctx)
		if err != nil {
			return err
		}
		r.clients = append(r.clients, c)
	}
	var dirs []string
	for range r.o.Mounts {
		m, err := r.cluster.Mount()
		if err != nil {
			return err
		}
		r.mounts = append(r.mounts, m)
		dirs = append(dirs, m.Dir)
	}
	var web []string
	for _, n := range r.cluster.Nodes() {
		web = append(web, n.HTTP)
	}
	for i, w := range r.loads {
		base, err := r.clients[0].Mkdir(ctx, eggs.Root, w.Name(), client.CreateOptions{Mode: 0o755})
		if err != nil {
			return err
		}
		e := &workload.Env{
			Clients: r.clients[:clients], Mounts: dirs, Recorder: r.rec, Seed: r.o.Seed + uint64(i)<<32, Base: base.ID,
			Path: "/" + w.Name(), Out: r.o.Out, Web: web, Pace: r.o.Pace, MountIO: r.o.MountIO,
		}
		if err := w.Setup(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", w.Name(), err)
		}
		r.envs = append(r.envs, e)
	}
	return nil
}

// torment runs workloads and faults together.
func (r *run) torment(ctx context.Context, steps []nemesis.Step) {
	begin := r.rec.Now()
	r.say("torment for %s: %d faults, seed %d", r.o.Time, len(steps), r.o.Seed)
	tctx, cancel := context.WithTimeout(ctx, r.o.Time)
	defer cancel()
	var wg sync.WaitGroup
	for i, w := range r.loads {
		wg.Go(func() { w.Run(tctx, r.envs[i]) })
	}
	t := &nemesis.Target{
		Cluster: r.cluster, Client: r.clients[clients], Disks: r.disks, Mounts: r.mounts, Clocks: r.clocks,
	}
	r.rep.Faults = nemesis.Run(tctx, t, steps, r.rec.Now, r.rec.Under, r.say)
	wg.Wait()
	r.phase("torment", begin)
}

// finish heals, and asks whether all lives and is right.
func (r *run) finish(ctx context.Context) {
	begin := r.rec.Now()
	err := r.heal(ctx)
	r.phase("heal", begin)
	r.step("heal", "every node is ready", err)
	if err != nil {
		return
	}
	begin = r.rec.Now()
	err = r.lives(ctx)
	r.phase("liveness", begin)
	r.step("liveness", "every group answers writes", err)
	if err != nil {
		return
	}
	begin = r.rec.Now()
	fctx, cancel := context.WithTimeout(ctx, finalLimit)
	defer cancel()
	for i, w := range r.loads {
		r.say("final state of %s", w.Name())
		if err := w.Final(fctx, r.envs[i]); err != nil {
			r.step(w.Name()+": final state", "", err)
		}
	}
	_, err = r.cluster.Eggs(fctx, "check")
	r.step("invariants", "no shard finds a fault, nor does the coordinator", err)
	r.phase("final", begin)
	begin = r.rec.Now()
	r.step("nothing left", "after removal and collection nothing is left, in shards or on disks", r.empty(ctx))
	r.phase("empty", begin)
}

// heal takes every fault away.
func (r *run) heal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	r.say("heal")
	if n := r.cluster.Network(); n != nil {
		if err := n.MendAll(); err != nil {
			return err
		}
	}
	for _, d := range r.disks {
		d.SetFault(nil)
	}
	for _, n := range r.cluster.Nodes() {
		n.Resume()
	}
	for _, m := range r.mounts {
		if err := m.Start(); err != nil {
			return err
		}
	}
	return r.cluster.Start(ctx)
}

// lives asks every shard something, which its leader answers only with a majority
// behind it, and writes to many of them; each must succeed in time.
func (r *run) lives(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, liveLimit)
	defer cancel()
	c := r.clients[0]
	base, err := c.Mkdir(ctx, eggs.Root, "lives", client.CreateOptions{Mode: 0o755})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				err := write(ctx, c, base.ID, i)
				if i >= liveWrites {
					if _, err = c.Stat(ctx, idIn(eggs.ShardID(i-liveWrites))); eggs.KindOf(err) == eggs.NotExist {
						err = nil
					}
				}
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range liveWrites + eggs.Shards {
		next <- i
	}
	close(next)
	wg.Wait()
	if len(errs) > 0 {
		return fmt.Errorf("%d of %d requests failed within %s of healing, the first: %w", len(errs),
			liveWrites+eggs.Shards, liveLimit, errs[0])
	}
	return nil
}

// write makes one directory and a file in it, and does nothing beyond liveWrites.
func write(ctx context.Context, c *client.Client, base eggs.InodeID, i int) error {
	if i >= liveWrites {
		return nil
	}
	d, err := c.Mkdir(ctx, base, fmt.Sprint(i), client.CreateOptions{Mode: 0o755})
	if err != nil {
		return err
	}
	w, err := c.Create(ctx, d.ID, "f", client.CreateOptions{Mode: 0o644})
	if err != nil {
		return err
	}
	_, err = w.Close(ctx)
	return err
}

// idIn is an id of a file that a shard would keep.
func idIn(s eggs.ShardID) eggs.InodeID {
	for n := uint64(1) << 60; ; n++ {
		if id := eggs.MakeInodeID(eggs.KindFile, n); id.Shard() == s {
			return id
		}
	}
}

// tails is the end of each node's log, for a run that did not come to a report.
func (r *run) tails() string {
	if r.cluster == nil {
		return ""
	}
	var b strings.Builder
	for _, n := range r.cluster.Nodes() {
		fmt.Fprintf(&b, "---- %s\n%s\n", n.Name(), n.LogTail())
	}
	return b.String()
}

// close ends everything. What a failed run has on its disks is kept for whoever
// looks into it; a passed one's is not.
func (r *run) close() {
	for _, d := range r.disks {
		d.SetFault(nil)
	}
	for _, c := range r.clients {
		_ = c.Close()
	}
	if r.cluster == nil {
		return
	}
	for _, n := range r.cluster.Nodes() {
		n.Resume()
	}
	r.cluster.Close()
	for _, d := range r.disks {
		if err := d.Close(); err != nil {
			r.say("%v", err)
		}
	}
	logs, _ := filepath.Glob(filepath.Join(r.o.Out, "data", "*.log"))
	for _, l := range logs {
		_ = os.Rename(l, filepath.Join(r.o.Out, filepath.Base(l)))
	}
	if r.rep.Passed && !r.o.Keep {
		_ = os.RemoveAll(filepath.Join(r.o.Out, "data"))
	}
}
