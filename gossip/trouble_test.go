package gossip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"eggsfs/eggs"
	"eggsfs/internal/auth"
)

// memberlist does not wait for its goroutines, and what they are at takes its time.
func TestMain(m *testing.M) {
	const list = "github.com/hashicorp/memberlist.(*Memberlist)."
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(list+"triggerFunc"),
		goleak.IgnoreAnyFunction(list+"pushPullTrigger"),
		goleak.IgnoreTopFunction(list+"checkBroadcastQueueDepth"))
}

// A partition that heals must come together by itself, even after each side
// has given the other up.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	_, ps := three(t)
	one, rest := []string{ps[2].addr}, []string{ps[0].addr, ps[1].addr}
	ps[0].cut.Store(&one)
	ps[1].cut.Store(&one)
	ps[2].cut.Store(&rest)
	ps[0].sees(6*time.Second, "3 dead", state(3, Dead))
	ps[2].sees(6*time.Second, "1 dead", state(1, Dead))
	ps[2].sees(6*time.Second, "2 dead", state(2, Dead))
	ps[1].setDisks(DiskInfo{ID: 0x77})
	ps[1].g.Update() // a change that 3 misses
	for _, p := range ps {
		p.cut.Store(nil)
	}
	for _, p := range ps {
		t.Logf("whole again after %v", p.sees(8*time.Second, "all alive", alive(3)))
	}
	ps[2].sees(4*time.Second, "the change it missed", func(v *View) bool {
		n, _ := v.Node(2)
		return len(n.Disks) == 1 && n.Disks[0].ID == 0x77
	})
}

// A node restarts with a clock that went back: its records must still count,
// though they are younger by number only.
func TestRestartWithClockBehind(t *testing.T) {
	t.Parallel()
	key, ps := three(t)
	ps[1].g.mu.Lock()
	ps[1].g.members[2].version += uint64(time.Hour) // as if its clock had been an hour ahead
	ps[1].g.mu.Unlock()
	ps[1].setDisks(DiskInfo{ID: 0x1})
	ps[1].g.Update()
	has := func(id eggs.DiskID) func(*View) bool {
		return func(v *View) bool {
			n, ok := v.Node(2)
			return ok && len(n.Disks) == 1 && n.Disks[0].ID == id
		}
	}
	ps[0].sees(3*time.Second, "the first disks", has(0x1))
	ps[1].kill()
	again := start(t, key, 2, 0)
	again.setDisks(DiskInfo{ID: 0x2})
	again.g.Update()
	again.join(ps[0])
	ps[0].sees(4*time.Second, "the disks after the restart", has(0x2))
	ps[2].sees(4*time.Second, "the disks after the restart", has(0x2))
}

// What a node says of itself beyond the limits, or a config that cannot work, is refused in words.
func TestBadConfigs(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	good := Config{
		Node: 1, Cluster: 2, Advertise: "127.0.0.1:1", Keys: [][]byte{make([]byte, 32)}, UDP: udp,
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no") },
		Self: func() NodeInfo { return NodeInfo{} },
	}
	for name, change := range map[string]func(*Config){
		"no node":    func(c *Config) { c.Node = 0 },
		"no cluster": func(c *Config) { c.Cluster = 0 },
		"no key":     func(c *Config) { c.Keys = nil },
		"a bad key":  func(c *Config) { c.Keys = [][]byte{{1}} },
		"no dial":    func(c *Config) { c.Dial = nil },
		"a long domain": func(c *Config) {
			c.Self = func() NodeInfo { return NodeInfo{Domain: strings.Repeat("x", 600)} }
		},
		"many disks": func(c *Config) {
			c.Self = func() NodeInfo { return NodeInfo{Disks: make([]DiskInfo, maxDisks+1)} }
		},
	} {
		c := good
		change(&c)
		if _, err := Open(c); !errors.Is(err, eggs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A join that finds nobody says so for each address, and gives up with its context.
func TestJoinNobody(t *testing.T) {
	t.Parallel()
	key, _ := auth.NewKey()
	p := start(t, key, 1, 0)
	_, err := p.g.Join(context.Background(), []string{"127.0.0.1:1", "localhost:2", "no port"})
	if !errors.Is(err, eggs.Unavailable) || strings.Count(err.Error(), ";") != 2 {
		t.Error(err)
	}
	if n, err := p.g.Join(context.Background(), []string{p.addr}); n != 0 || err != nil {
		t.Errorf("joining itself: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.g.Join(ctx, []string{"127.0.0.1:1"}); err == nil {
		t.Error("a join with a context that is over")
	}
}

// What travels is read back as it was, in whatever pieces, and old programs'
// and new ones' fields are told apart.
func TestRecords(t *testing.T) {
	m := meta{cluster: 5, leaving: true, info: NodeInfo{ID: 6, Addr: "a:1", HTTP: "h", Domain: "d", Roles: 7, Version: "v"}}
	got, err := decodeMeta(appendText(m.encode(), 99, "from the future"))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%v: %+v", err, got)
	}
	r := record{node: 1, version: 2, clock: 3, chunks: 1}
	for i := range 100 {
		r.disks = append(r.disks, DiskInfo{ID: eggs.DiskID(i + 1), Class: 2, Capacity: 1 << 44, Free: 1 << 40, Writable: true, Load: 9})
	}
	whole, err := decodeRecord(r.encode())
	if err != nil || !reflect.DeepEqual(whole, r) {
		t.Errorf("%v: %+v", err, whole)
	}
	var disks []DiskInfo
	for i, b := range r.split() {
		c, err := decodeRecord(b)
		if err != nil || c.chunk != uint32(i) || len(b) > chunkBytes+100 {
			t.Errorf("chunk %d of %d bytes: %v", i, len(b), err)
		}
		disks = append(disks, c.disks...)
	}
	if !reflect.DeepEqual(disks, r.disks) {
		t.Error("the chunks are not the whole")
	}
	if none := (&record{node: 1}).split(); len(none) != 1 {
		t.Errorf("a node without disks says it in %d chunks", len(none))
	}
}

// FuzzRecord: nothing that comes in a packet may crash a node or make it keep much.
func FuzzRecord(f *testing.F) {
	r := record{node: 1, version: 2, chunks: 3, disks: []DiskInfo{{ID: 4, Free: 5}}}
	f.Add(r.encode())
	f.Add((&meta{cluster: 1, info: NodeInfo{ID: 2, Addr: "x"}}).encode())
	f.Add(appendText(nil, 1, r.encode()))
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeMeta(b)
		decodeState(b)
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		g := &Gossip{
			cfg:     Config{Node: 99, Clock: func() eggs.Time { return 0 }},
			members: map[eggs.NodeID]*member{r.node: {}}, changed: make(chan struct{}), push: make(chan struct{}, 1),
		}
		g.heard(&r)
		r.chunk, r.chunks = 1, 2
		g.heard(&r)
		again, err := decodeRecord(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v: %+v is not %+v", err, again, r)
		}
	})
}

// memberlist's lines come at sensible levels, and a flood of them does not.
func TestLogBridge(t *testing.T) {
	var out strings.Builder
	to := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	l := newBridge(to).logger()
	l.Printf("[DEBUG] memberlist: every probe")
	l.Printf("[INFO] memberlist: now and then")
	for range 1000 {
		l.Printf("[ERR] memberlist: Decrypt packet failed")
	}
	if n := strings.Count(out.String(), "\n"); n == 0 || n > logBurst+1 || strings.Contains(out.String(), "probe") {
		t.Errorf("%d lines:\n%s", n, out.String())
	}
}

// BenchmarkIdle measures what three idle nodes cost; the target is under 1 % of a core each.
func BenchmarkIdle(b *testing.B) {
	three(b)
	time.Sleep(time.Second)
	cpu := func() time.Duration {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, begin := cpu(), time.Now()
	time.Sleep(5 * time.Second)
	used := float64(cpu()-before) / float64(time.Since(begin)) / 3 * 100
	b.ReportMetric(used, "%core/node")
	b.ReportMetric(0, "ns/op")
}

// A record whose broadcasts were all lost is fetched when a probe tells that there is one.
func TestMissedRecordIsFetched(t *testing.T) {
	t.Parallel()
	_, ps := three(t)
	g := ps[0].g
	lost := []DiskInfo{{ID: 0x55, Writable: true}}
	ps[0].setDisks(lost...)
	g.mu.Lock()
	m := g.members[1]
	m.version++
	m.view.Disks = lost
	g.version.Store(m.version)
	g.mu.Unlock()
	for _, p := range ps[1:] {
		took := p.sees(4*time.Second, "what was never broadcast", func(v *View) bool {
			n, _ := v.Node(1)
			return len(n.Disks) == 1 && n.Disks[0].ID == 0x55
		})
		t.Logf("fetched after %v", took)
	}
}
