package netns

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// table is the name of the one nftables table in each node's namespace.
const table = "eggsj"

// broken is what is wrong with the network now.
type broken struct {
	mu    sync.Mutex
	rules map[int]*nodeRules
}

// nodeRules are one node's: what it does not hear, and what the clients do not hear of it.
type nodeRules struct {
	deaf map[int]bool // nodes, or Host, whose packets are dropped here
	mute bool         // packets to the clients are dropped
	lost uint64       // packets that earlier rules of this node dropped
}

// Pair is one direction between two nodes, or a node and Host.
type Pair struct{ From, To int }

// Cut drops everything that goes in these directions, besides what is cut already.
func (n *Network) Cut(pairs []Pair) error { return n.change(pairs, true) }

// Mend lets everything through again that goes in these directions.
func (n *Network) Mend(pairs []Pair) error { return n.change(pairs, false) }

// MendAll lets everything through between all.
func (n *Network) MendAll() error {
	n.broken.mu.Lock()
	var pairs []Pair
	for node, r := range n.broken.rules {
		for from := range r.deaf {
			pairs = append(pairs, Pair{from, node})
		}
		if r.mute {
			pairs = append(pairs, Pair{node, Host})
		}
	}
	n.broken.mu.Unlock()
	return n.Mend(pairs)
}

func (n *Network) change(pairs []Pair, cut bool) error {
	n.broken.mu.Lock()
	defer n.broken.mu.Unlock()
	touched := map[int]bool{}
	for _, p := range pairs {
		at := p.To
		if at == Host {
			at = p.From
		}
		if at == Host {
			return fmt.Errorf("netns.Cut: a pair of two clients")
		}
		r := n.broken.rules[at]
		if r == nil {
			r = &nodeRules{deaf: map[int]bool{}}
			n.broken.rules[at] = r
		}
		switch {
		case p.To == Host:
			r.mute = cut
		case cut:
			r.deaf[p.From] = true
		default:
			delete(r.deaf, p.From)
		}
		touched[at] = true
	}
	for _, node := range slices.Sorted(maps.Keys(touched)) {
		if err := n.load(node, n.broken.rules[node]); err != nil {
			return err
		}
	}
	return nil
}

// load replaces the node's table in one transaction. Dropped is read first, as
// the counters go with the old table.
func (n *Network) load(node int, r *nodeRules) error {
	r.lost += n.counted(node)
	ns := n.namespace(node)
	_, err := run(ruleset(r, n.address), "ip", "netns", "exec", ns, "nft", "-f", "-")
	return err
}

// ruleset is the input of nft.
func ruleset(r *nodeRules, address func(int) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {}\ndelete table ip %s\ntable ip %s {\n", table, table, table)
	fmt.Fprintf(&b, " chain in { type filter hook input priority 0; policy accept;\n")
	for _, from := range slices.Sorted(maps.Keys(r.deaf)) {
		fmt.Fprintf(&b, "  ip saddr %s counter drop\n", address(from))
	}
	fmt.Fprintf(&b, " }\n chain out { type filter hook output priority 0; policy accept;\n")
	if r.mute {
		fmt.Fprintf(&b, "  ip daddr %s counter drop\n", address(Host))
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

var counter = regexp.MustCompile(`counter packets (\d+)`)

// counted is what the node's present table has dropped; 0 when there is none.
func (n *Network) counted(node int) uint64 {
	out, err := run("", "ip", "netns", "exec", n.namespace(node), "nft", "list", "table", "ip", table)
	if err != nil {
		return 0
	}
	var sum uint64
	for _, m := range counter.FindAllStringSubmatch(out, -1) {
		v, _ := strconv.ParseUint(m[1], 10, 64)
		sum += v
	}
	return sum
}

// Dropped is how many packets cuts have dropped so far, everywhere.
func (n *Network) Dropped() uint64 {
	n.broken.mu.Lock()
	defer n.broken.mu.Unlock()
	var sum uint64
	for node, r := range n.broken.rules {
		sum += r.lost + n.counted(node)
	}
	return sum
}

// Between lists both directions of every pair of a node in a and a node in b.
func Between(a, b []int) []Pair {
	var pairs []Pair
	for _, x := range a {
		for _, y := range b {
			if x != y {
				pairs = append(pairs, Pair{x, y}, Pair{y, x})
			}
		}
	}
	return pairs
}

// Ring cuts so that each of n nodes hears a majority, and no two the same one: a
// node keeps itself and its nearest neighbours. Of three or four each is deaf to one.
func Ring(n int) []Pair {
	var pairs []Pair
	if n < 5 {
		for i := range n {
			pairs = append(pairs, Pair{(i + 1) % n, i})
		}
		return pairs
	}
	reach := (n/2 + 1) / 2 // neighbours kept on each side
	for i := range n {
		for j := range n {
			d := (j - i + n) % n
			if i != j && min(d, n-d) > reach {
				pairs = append(pairs, Pair{i, j})
			}
		}
	}
	return pairs
}

// Bridge splits n nodes in two halves that only the node in the middle hears both of.
func Bridge(order []int) []Pair {
	half := len(order) / 2
	return Between(order[:half], order[half+1:])
}
