package netns

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxFrame = 64 << 10 // bytes; frames are not larger without offload
	maxQueue = 4096     // frames under way each way; more are lost, as in a real switch
)

// Weather is what a user-space cable does to each frame, each way.
type Weather struct {
	Delay     time.Duration
	Jitter    time.Duration // up to this much more, which also reorders
	Loss      float64       // 0 to 1
	Duplicate float64       // 0 to 1
}

// Cable carries one node's frames in place of its port at the bridge.
type Cable struct {
	n      *Network
	node   int
	port   int // AF_PACKET socket on the node's veth end
	tap    *os.File
	stop   chan struct{}
	wg     sync.WaitGroup
	met    atomic.Uint64
	closed sync.Once
}

// Lay puts a cable with weather between a node and the bridge. TCP connections
// stay; the frames of a moment may be lost.
func (n *Network) Lay(node int, w Weather, seed uint64) (*Cable, error) {
	c := &Cable{n: n, node: node, port: -1, stop: make(chan struct{})}
	if err := c.open(); err != nil {
		c.Close()
		return nil, err
	}
	c.wg.Go(func() { c.carry(w, seed, c.fromNode, c.toBridge) })
	c.wg.Go(func() { c.carry(w, seed+1, c.fromBridge, c.toNode) })
	return c, nil
}

// Met is how many frames were delayed, lost or doubled.
func (c *Cable) Met() uint64 { return c.met.Load() }

func (c *Cable) name() string { return fmt.Sprintf("%st%d", c.n.prefix, c.node) }

func (c *Cable) open() error {
	// The kernel must hand over whole frames of real size: no checksum or
	// segmentation left to a device.
	err := within(c.n.namespace(c.node), func() error { return offload("eth0", 0) })
	if err != nil {
		return err
	}
	if c.tap, err = openTap(c.name()); err != nil {
		return err
	}
	outer := c.n.portOfNode(c.node)
	if c.port, err = packetSocket(outer); err != nil {
		return err
	}
	return batch("link set "+outer+" nomaster", "link set "+c.name()+" master "+c.n.bridge(),
		"link set "+c.name()+" up")
}

// Close takes the cable away: the node is at the bridge again.
func (c *Cable) Close() {
	c.closed.Do(func() {
		close(c.stop)
		if c.tap != nil {
			_ = c.tap.Close()
		}
		c.wg.Wait()
		if c.port >= 0 {
			_ = unix.Close(c.port)
		}
		_, _ = run("", "ip", "link", "set", c.n.portOfNode(c.node), "master", c.n.bridge())
		_ = within(c.n.namespace(c.node), func() error { return offload("eth0", 1) })
	})
}

func (c *Cable) fromNode(p []byte) (int, error) {
	for {
		k, from, err := unix.Recvfrom(c.port, p, 0)
		if sa, ok := from.(*unix.SockaddrLinklayer); ok && sa.Pkttype == unix.PACKET_OUTGOING {
			continue // what we sent ourselves
		}
		if err == unix.EAGAIN || err == unix.EINTR {
			select {
			case <-c.stop:
				return 0, os.ErrClosed
			default:
				continue
			}
		}
		return k, err
	}
}

func (c *Cable) fromBridge(p []byte) (int, error) { return c.tap.Read(p) }
func (c *Cable) toBridge(p []byte)                { _, _ = c.tap.Write(p) }
func (c *Cable) toNode(p []byte)                  { _, _ = unix.Write(c.port, p) }

// frame is one that is under way.
type frame struct {
	due  time.Time
	data []byte
}

type frames []frame

func (f frames) Len() int           { return len(f) }
func (f frames) Less(i, j int) bool { return f[i].due.Before(f[j].due) }
func (f frames) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)        { *f = append(*f, x.(frame)) }
func (f *frames) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}

// carry moves frames one way until the cable is closed.
func (c *Cable) carry(w Weather, seed uint64, read func([]byte) (int, error), write func([]byte)) {
	rng := rand.New(rand.NewPCG(seed, 0))
	under := make(chan frame, maxQueue)
	c.wg.Go(func() { c.deliver(under, write) })
	defer close(under)
	buf := make([]byte, maxFrame)
	for {
		k, err := read(buf)
		if err != nil {
			return
		}
		copies := 1
		switch x := rng.Float64(); {
		case x < w.Loss:
			copies = 0
		case x < w.Loss+w.Duplicate:
			copies = 2
		}
		if copies != 1 || w.Delay > 0 {
			c.met.Add(1)
		}
		for range copies {
			wait := w.Delay
			if w.Jitter > 0 {
				wait += time.Duration(rng.Int64N(int64(w.Jitter)))
			}
			select {
			case under <- frame{time.Now().Add(wait), append([]byte(nil), buf[:k]...)}:
			default:
			}
		}
	}
}

// deliver writes each frame when it is due.
func (c *Cable) deliver(under <-chan frame, write func([]byte)) {
	var queue frames
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for len(queue) > 0 && !queue[0].due.After(time.Now()) {
			write(heap.Pop(&queue).(frame).data)
		}
		wait := time.Hour
		if len(queue) > 0 {
			wait = time.Until(queue[0].due)
		}
		timer.Reset(wait)
		select {
		case f, ok := <-under:
			if !ok {
				return
			}
			if len(queue) < maxQueue {
				heap.Push(&queue, f)
			}
		case <-timer.C:
		}
	}
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("netns: /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netns: tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// packetSocket sees everything that comes out of a device and can put frames into it.
func packetSocket(device string) (int, error) {
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return -1, fmt.Errorf("netns: packet socket: %w", err)
	}
	out, err := os.ReadFile("/sys/class/net/" + device + "/ifindex")
	if err == nil {
		var index int
		if _, err = fmt.Sscan(strings.TrimSpace(string(out)), &index); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
		}
	}
	if err == nil { // so that a reader sees that the cable is closed
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("netns: packet socket on %s: %w", device, err)
	}
	return fd, nil
}

// ethtoolValue is struct ethtool_value of the kernel.
type ethtoolValue struct{ cmd, data uint32 }

// offload switches checksum and segmentation offload of a device in the present namespace.
func offload(device string, on uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	order := []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_STXCSUM}
	if on != 0 {
		order = []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SGSO, unix.ETHTOOL_STSO}
	}
	for _, cmd := range order {
		v := ethtoolValue{cmd, on}
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], device)
		req.data = unsafe.Pointer(&v)
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL,
			uintptr(unsafe.Pointer(&req))); e != 0 {
			return fmt.Errorf("netns: ethtool %s: %w", device, e)
		}
	}
	return nil
}
