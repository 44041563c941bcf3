package raftgroup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"eggsfs/eggs"
)

// Some things only real processes can show: a SIGKILL that loses what was not
// synced, a SIGSTOP that leaves sockets open, CPU and memory. So the test binary
// starts itself as nodes, which obey lines on a socket.

const childEnv = "EGGS_RAFTGROUP_CHILD"

func TestMain(m *testing.M) {
	if conf := os.Getenv(childEnv); conf != "" {
		if err := runChild(conf); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type childConfig struct {
	ID     eggs.NodeID
	Dir    string
	Raft   []string // addresses by node, from node 1 on
	Ctl    string
	Groups int

	Truncate TruncateLimits
	KillAt   string // the arrow of an installation at which it kills itself
}

type childStat struct {
	Leads   int
	Terms   uint64
	CPU     time.Duration
	RSS     int // KiB
	Threads int
	Hashes  []uint32
	Stats   Stats
	Log     LogStats
}

func runChild(conf string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return err
	}
	runtime.GOMAXPROCS(2)
	ln, err := net.Listen("tcp", c.Raft[c.ID-1])
	if err != nil {
		return err
	}
	h, err := Open(Config{
		Dir: c.Dir, Node: c.ID, Cluster: testClusterID,
		Dial: func(ctx context.Context, to eggs.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.Raft[to-1])
		},
		Truncate: c.Truncate,
	})
	if err != nil {
		return err
	}
	if c.KillAt != "" {
		h.store.state.step = func(_ eggs.GroupID, arrow string) {
			if arrow == c.KillAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	ms := map[eggs.GroupID]Machine{}
	for g := range c.Groups {
		ms[eggs.GroupID(g)] = kvMachine{}
	}
	if err := h.AddAll(ms); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go h.Serve(conn, 0)
		}
	}()
	var ids []eggs.NodeID
	for i := range c.Raft {
		ids = append(ids, eggs.NodeID(i+1))
	}
	h.SetPeers(ids)
	if err := h.BootstrapAll(ids); err != nil && !errors.Is(err, eggs.Exist) {
		return err
	}
	ctl, err := net.Listen("tcp", c.Ctl)
	if err != nil {
		return err
	}
	go func() { // a test that was killed leaves no nodes behind
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	for {
		conn, err := ctl.Accept()
		if err != nil {
			return err
		}
		go obey(h, conn)
	}
}

func obey(h *Host, conn net.Conn) {
	defer conn.Close()
	r := bufio.NewScanner(conn)
	for r.Scan() {
		f := strings.SplitN(r.Text(), " ", 3)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		fmt.Fprintln(conn, obeyOne(ctx, h, f))
		cancel()
	}
}

func obeyOne(ctx context.Context, h *Host, f []string) string {
	if f[0] == "stat" {
		b, _ := json.Marshal(ownStat(h, len(f) > 1))
		return string(b)
	}
	if f[0] == "load" {
		return loadOwn(h, f[1])
	}
	n, _ := strconv.Atoi(f[1])
	g := h.Group(eggs.GroupID(n))
	switch f[0] {
	case "put":
		if _, err := g.Propose(ctx, []byte(f[2])); err != nil {
			return "error " + strconv.Itoa(int(eggs.KindOf(err)))
		}
		return "ok"
	case "get":
		v, err := g.Read(ctx)
		if err != nil {
			return "error " + strconv.Itoa(int(eggs.KindOf(err)))
		}
		defer v.Close()
		b, _ := v.Get([]byte(f[2]))
		return "ok " + string(b)
	}
	return "error 0"
}

// loadOwn writes to each group that this node leads, one caller a group, for so
// many seconds, and answers how often and how long half of them took at most.
func loadOwn(h *Host, secs string) string {
	n, _ := strconv.Atoi(secs)
	end := time.Now().Add(time.Duration(n) * time.Second)
	var mu sync.Mutex
	var took []time.Duration
	var all sync.WaitGroup
	for _, g := range h.Groups() {
		if !g.Leads() {
			continue
		}
		all.Go(func() {
			for time.Now().Before(end) {
				t := time.Now()
				if _, err := g.Propose(context.Background(), make([]byte, 200)); err == nil {
					mu.Lock()
					took = append(took, time.Since(t))
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return fmt.Sprint(len(took), " ", took[len(took)/2].Microseconds())
}

func ownStat(h *Host, hashes bool) childStat {
	var s childStat
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	s.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			s.RSS, _ = strconv.Atoi(f[1])
		case "Threads:":
			s.Threads, _ = strconv.Atoi(f[1])
		}
	}
	for _, g := range h.Groups() {
		if g.Leads() {
			s.Leads++
		}
		s.Terms += g.raft.CurrentTerm()
		if hashes {
			s.Hashes = append(s.Hashes, g.Hash())
		}
	}
	s.Stats, s.Log = h.Stats(), h.store.log.Stats()
	return s
}

// child is one node process.
type child struct {
	conf childConfig
	cmd  *exec.Cmd
	mu   sync.Mutex
	idle []*ctlConn
}

type ctlConn struct {
	net.Conn
	r *bufio.Reader
}

type processes struct {
	t     *testing.T
	nodes []*child
}

func newProcesses(t *testing.T, n, groups int) *processes {
	t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	var addrs []string
	for range n {
		addrs = append(addrs, free())
	}
	ps := &processes{t: t}
	dir := t.TempDir()
	for i := range n {
		c := childConfig{
			ID: eggs.NodeID(i + 1), Raft: addrs, Ctl: free(), Groups: groups,
			Dir: filepath.Join(dir, strconv.Itoa(i+1)),
		}
		if err := os.Mkdir(c.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		ps.nodes = append(ps.nodes, &child{conf: c})
	}
	t.Cleanup(func() {
		for _, c := range ps.nodes {
			c.kill()
		}
	})
	return ps
}

func (ps *processes) start(cs ...*child) {
	ps.t.Helper()
	for _, c := range cs {
		b, _ := json.Marshal(c.conf)
		c.cmd = exec.Command(os.Args[0])
		c.cmd.Env = append(os.Environ(), childEnv+"="+string(b))
		c.cmd.Stderr = os.Stderr
		if _, err := c.cmd.StdinPipe(); err != nil {
			ps.t.Fatal(err)
		}
		if err := c.cmd.Start(); err != nil {
			ps.t.Fatal(err)
		}
	}
}

func (c *child) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
	c.mu.Lock()
	for _, x := range c.idle {
		x.Close()
	}
	c.idle = nil
	c.mu.Unlock()
}

// ask sends a line and returns the answer, "" when there is none in time.
func (c *child) ask(line string, limit time.Duration) string {
	c.mu.Lock()
	var x *ctlConn
	if n := len(c.idle); n > 0 {
		x, c.idle = c.idle[n-1], c.idle[:n-1]
	}
	c.mu.Unlock()
	if x == nil {
		conn, err := net.DialTimeout("tcp", c.conf.Ctl, limit)
		if err != nil {
			return ""
		}
		x = &ctlConn{conn, bufio.NewReader(conn)}
	}
	_ = x.SetDeadline(time.Now().Add(limit))
	if _, err := fmt.Fprintln(x, line); err == nil {
		if answer, err := x.r.ReadString('\n'); err == nil {
			c.mu.Lock()
			c.idle = append(c.idle, x)
			c.mu.Unlock()
			return strings.TrimSuffix(answer, "\n")
		}
	}
	x.Close()
	return ""
}

func (c *child) stat(hashes bool) (s childStat) {
	line := "stat"
	if hashes {
		line = "stat hashes"
	}
	_ = json.Unmarshal([]byte(c.ask(line, 5*time.Second)), &s)
	return s
}

// put tries nodes in turn until one commits. It returns false when the outcome
// is open at the end.
func (ps *processes) put(g int, entry string, limit time.Duration) bool {
	line := fmt.Sprintf("put %d %s", g, entry)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		for _, c := range ps.nodes {
			if c.ask(line, 500*time.Millisecond) == "ok" {
				return true
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// writable writes to every group and returns how long that took.
func (ps *processes) writable(limit time.Duration) time.Duration {
	ps.t.Helper()
	start := time.Now()
	var all sync.WaitGroup
	slots := make(chan struct{}, 64)
	for g := range ps.nodes[0].conf.Groups {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if !ps.put(g, "w=1", limit) {
				ps.t.Errorf("group %d is not writable", g)
			}
		})
	}
	all.Wait()
	return time.Since(start)
}

// SIGKILL of one node under load, then of all at one instant: nothing that was
// acknowledged is lost, and the replicas of every group are equal.
func TestNothingAcknowledgedIsLostBySIGKILL(t *testing.T) {
	ps := newProcesses(t, 3, eggs.Groups)
	start := time.Now()
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	t.Logf("first start: writable after %v", time.Since(start))

	var mu sync.Mutex
	acked := map[string]int{}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for w := range 32 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(w)))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				g, key := r.IntN(eggs.Groups), fmt.Sprintf("%d.%d", w, i)
				if ps.put(g, key+"=v", 300*time.Millisecond) {
					mu.Lock()
					acked[key] = g
					mu.Unlock()
				}
			}
		})
	}
	time.Sleep(700 * time.Millisecond)
	victim := ps.nodes[1]
	victim.kill()
	t.Logf("one killed: writable after %v", ps.writable(10*time.Second))
	ps.start(victim)
	time.Sleep(700 * time.Millisecond)
	for _, c := range ps.nodes {
		_ = c.cmd.Process.Kill()
	}
	close(stop)
	for _, c := range ps.nodes {
		c.kill()
	}
	all.Wait()
	start = time.Now()
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	t.Logf("all killed: writable after %v; %d writes acknowledged", time.Since(start), len(acked))
	lost := 0
	for key, g := range acked {
		if ps.get(g, key) != "v" {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(acked))
	}
	ps.sameHashes()
}

func (ps *processes) get(g int, key string) string {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		for _, c := range ps.nodes {
			if a := c.ask(fmt.Sprintf("get %d %s", g, key), time.Second); strings.HasPrefix(a, "ok ") {
				return a[3:]
			}
		}
	}
	return ""
}

func (ps *processes) sameHashes() {
	ps.t.Helper()
	differ := 0
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
		ps.writable(5 * time.Second) // the last entry tells what the one before it was
		ps.writable(5 * time.Second)
		time.Sleep(50 * time.Millisecond)
		a := ps.nodes[0].stat(true)
		differ = 0
		for _, c := range ps.nodes[1:] {
			b := c.stat(true)
			for i := range a.Hashes {
				if len(b.Hashes) != len(a.Hashes) || a.Hashes[i] != b.Hashes[i] {
					differ++
				}
			}
		}
		if differ == 0 {
			return
		}
	}
	ps.t.Errorf("%d replicas differ", differ)
}

// A stopped process holds its connections open and refuses nothing. It is
// replaced within three seconds, and when it goes on it does no harm.
func TestStoppedProcessIsReplaced(t *testing.T) {
	ps := newProcesses(t, 3, eggs.Groups)
	ps.start(ps.nodes...)
	ps.writable(20 * time.Second)
	victim := ps.nodes[0]
	line := "put 0 k=old"
	for victim.ask(line, time.Second) != "ok" { // it leads group 0
		time.Sleep(20 * time.Millisecond)
	}
	_ = victim.cmd.Process.Signal(syscall.SIGSTOP)
	start := time.Now()
	rest := &processes{t: t, nodes: ps.nodes[1:]}
	rest.writable(10 * time.Second)
	took := time.Since(start)
	t.Logf("writable after %v", took)
	if took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if !rest.put(0, "k=new", 5*time.Second) {
		t.Fatal("no write")
	}
	before := rest.nodes[0].stat(false).Terms
	_ = victim.cmd.Process.Signal(syscall.SIGCONT)
	for range 200 {
		if a := victim.ask("get 0 k", time.Second); a == "ok old" {
			t.Fatal("a stale read")
		}
	}
	time.Sleep(300 * time.Millisecond)
	if after := rest.nodes[0].stat(false).Terms; after > before+10 {
		t.Errorf("terms rose by %d when it went on", after-before)
	}
	ps.writable(5 * time.Second)
}
