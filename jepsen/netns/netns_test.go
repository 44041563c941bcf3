package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// network makes a network of n empty namespaces that goes with the test.
func network(t *testing.T, n int) *Network {
	t.Helper()
	net, err := NewNetwork()
	if errors.Is(err, ErrNoNamespaces) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	for range n {
		if _, err := net.add(); err != nil {
			t.Fatal(err)
		}
	}
	return net
}

// echo answers UDP packets in a node's namespace.
func echo(t *testing.T, n *Network, node int) {
	t.Helper()
	var c net.PacketConn
	if err := within(n.namespace(node), func() (err error) {
		c, err = net.ListenPacket("udp", n.address(node)+":7")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:k], from)
		}
	}()
}

// ask sends count packets from one to the other, Host included, and returns how
// many answers came and how long the first took.
func ask(t *testing.T, n *Network, from, to, count int) (answers int, first time.Duration) {
	t.Helper()
	dial := func() (c net.Conn, err error) {
		if from == Host {
			return net.Dial("udp", n.address(to)+":7")
		}
		err = within(n.namespace(from), func() (e error) {
			c, e = net.Dial("udp", n.address(to)+":7")
			return e
		})
		return c, err
	}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	for i := range count {
		_, _ = fmt.Fprintf(c, "%d", i)
	}
	b := make([]byte, 100)
	for {
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Read(b); err != nil {
			return answers, first
		}
		if answers++; answers == 1 {
			first = time.Since(begin)
		}
	}
}

// TestCuts shows that a cut drops one direction and nothing else, that it is
// counted, and that mending it is complete: a partition that leaks, or that stays,
// makes every later verdict worthless.
func TestCuts(t *testing.T) {
	n := network(t, 3)
	for i := range 3 {
		echo(t, n, i)
	}
	talk := func(from, to int) bool { a, _ := ask(t, n, from, to, 2); return a > 0 }
	if !talk(0, 1) || !talk(Host, 2) {
		t.Fatal("nodes do not hear each other before any cut")
	}
	if err := n.Cut([]Pair{{0, 1}}); err != nil {
		t.Fatal(err)
	}
	if talk(0, 1) || talk(1, 0) {
		t.Fatal("questions and answers pass a one-way cut")
	}
	if !talk(0, 2) || !talk(Host, 1) {
		t.Fatal("the cut takes more than its direction")
	}
	if err := n.Cut([]Pair{{Host, 2}}); err != nil {
		t.Fatal(err)
	}
	if talk(Host, 2) {
		t.Fatal("a client is heard through a cut")
	}
	if n.Dropped() < 4 {
		t.Fatalf("%d packets counted", n.Dropped())
	}
	if err := n.MendAll(); err != nil {
		t.Fatal(err)
	}
	if !talk(0, 1) || !talk(1, 0) || !talk(Host, 2) {
		t.Fatal("a mended network does not carry")
	}
	if n.Dropped() < 4 {
		t.Fatal("mending forgot what was dropped")
	}
}

// TestCable shows that the user-space cable delays, loses and doubles, lets TCP
// streams through whole, and leaves no trace when it is taken away.
func TestCable(t *testing.T) {
	n := network(t, 2)
	echo(t, n, 0)
	c, err := n.Lay(0, Weather{Delay: 30 * time.Millisecond}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if a, first := ask(t, n, 1, 0, 5); a != 5 || first < 60*time.Millisecond {
		t.Fatalf("%d answers, the first after %v", a, first)
	}
	if c.Met() < 10 {
		t.Fatalf("met %d frames", c.Met())
	}
	c.Close()
	if a, first := ask(t, n, 1, 0, 5); a != 5 || first > 60*time.Millisecond {
		t.Fatalf("after the cable: %d answers, the first after %v", a, first)
	}
	if c, err = n.Lay(0, Weather{Loss: 0.5}, 2); err != nil {
		t.Fatal(err)
	}
	if a, _ := ask(t, n, 1, 0, 100); a < 5 || a > 60 {
		t.Fatalf("%d of 100 answers over a cable that loses half, each way", a)
	}
	c.Close()
	if c, err = n.Lay(0, Weather{Duplicate: 0.5, Delay: time.Millisecond, Jitter: time.Millisecond}, 3); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, _ := ask(t, n, 1, 0, 100); a < 120 {
		t.Fatalf("%d answers over a cable that doubles", a)
	}
	stream(t, n, 4<<20)
}

// stream sends bytes from node 1 to node 0 over TCP, with offload as the kernel likes it.
func stream(t *testing.T, n *Network, size int64) {
	t.Helper()
	var l net.Listener
	if err := within(n.namespace(0), func() (err error) {
		l, err = net.Listen("tcp", n.address(0)+":8")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int64, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		k, _ := io.Copy(io.Discard, c)
		got <- k
	}()
	var c net.Conn
	if err := within(n.namespace(1), func() (err error) {
		c, err = net.Dial("tcp", l.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case k := <-got:
		if k != size {
			t.Fatalf("%d of %d bytes came", k, size)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the stream did not end")
	}
}

// TestSweep shows that what a dead harness left is removed, and that what a
// living one has is not.
func TestSweep(t *testing.T) {
	n := network(t, 1)
	old := exec.Command("true")
	if err := old.Run(); err != nil {
		t.Fatal(err)
	}
	ns := fmt.Sprintf("ej%da-0", old.Process.Pid)
	if _, err := run("", "ip", "netns", "add", ns); err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("ej%dab", old.Process.Pid)
	if err := batch("link add " + link + " type bridge"); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("ip", "netns", "exec", ns, "sleep", "60")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	for range 100 { // until it is in the namespace
		if out, _ := run("", "ip", "netns", "pids", ns); out != "" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if err := left.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("the left process: %v", err)
	}
	list, err := run("", "ip", "netns", "list")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(list, ns) || !strings.Contains(list, n.namespace(0)) {
		t.Fatalf("after the sweep: %s", list)
	}
	if _, err := os.Stat("/sys/class/net/" + link); err == nil {
		t.Fatal("the dead owner's bridge is still there")
	}
}

// TestShapes checks what the named partitions leave: a ring leaves each node a
// majority, a bridge leaves one node that hears all.
func TestShapes(t *testing.T) {
	for _, n := range []int{3, 5, 7} {
		deaf := map[int]int{}
		for _, p := range Ring(n) {
			deaf[p.To]++
		}
		for i := range n {
			if heard := n - deaf[i]; heard <= n/2 || heard == n {
				t.Errorf("ring of %d: node %d hears %d", n, i, heard)
			}
		}
	}
	deaf := map[int]int{}
	for _, p := range Bridge([]int{4, 2, 0, 1, 3}) {
		deaf[p.To]++
	}
	if deaf[0] != 0 || deaf[4] != 2 || deaf[3] != 2 {
		t.Errorf("bridge: %v", deaf)
	}
}
