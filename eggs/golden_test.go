package eggs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files; none of their lines may change")

// golden compares text with a file that is frozen.
func golden(t *testing.T, name string, got *bytes.Buffer) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("%s:%d has changed", path, i+1)
		}
	}
}

// Every inode lives where its id hashes to. A change of the hash would lose
// every file of every cluster, so it is frozen here.
func TestGoldenRouting(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# id shard\n")
	ids := []uint64{0, 1, 2, uint64(Root), 1<<64 - 1, 1 << 63, 0x0123456789abcdef}
	for _, k := range []InodeKind{KindDirectory, KindFile, KindSymlink} {
		for n := range uint64(80) {
			ids = append(ids, uint64(MakeInodeID(k, n*n*n*7919+n)))
		}
	}
	for _, id := range ids {
		fmt.Fprintf(&b, "%016x %d\n", id, ShardOf(id))
	}
	golden(t, "routing.txt", &b)
}

// Ids in a row must spread evenly: counters hand them out in a row.
func TestRoutingIsEven(t *testing.T) {
	for _, k := range []InodeKind{KindDirectory, KindFile, KindSymlink} {
		var count [Shards]int
		const n = 100 * Shards
		for i := range uint64(n) {
			count[MakeInodeID(k, i+1).Shard()]++
		}
		for s, c := range count {
			if c < 50 || c > 150 {
				t.Errorf("%v: shard %d has %d of %d ids", k, s, c, n)
			}
		}
	}
}

// The order of a directory's entries, and cursors into it, come from this hash.
func TestGoldenNames(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("# hash name\n")
	names := []string{
		"a", "b", "A", "file", "file.txt", ".hidden", "..x", "\u00e4", "a\u0308", "\xff\xfe",
		strings.Repeat("x", MaxName), "日本語", " ", "new\nline",
	}
	for i := range 40 {
		names = append(names, fmt.Sprintf("file-%d", i))
	}
	for _, n := range names {
		h := NameHash(n)
		fmt.Fprintf(&b, "%016x %q\n", h, n)
		if h < FirstNameHash || h>>63 != 0 {
			t.Errorf("the hash of %q is %x", n, h)
		}
	}
	golden(t, "names.txt", &b)
}

// A kind crosses the wire as its number and reaches people as its name.
func TestGoldenKinds(t *testing.T) {
	var b bytes.Buffer
	seen := map[string]Kind{}
	for k := Kind(0); k < Kinds; k++ {
		name := k.String()
		if name == "" || k != Other && name == Other.String() {
			t.Errorf("kind %d has no name", k)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("kinds %d and %d are both %q", k, other, name)
		}
		seen[name] = k
		fmt.Fprintf(&b, "%d %s\n", k, name)
	}
	golden(t, "kinds.txt", &b)
	if Kind(9999).String() == "" {
		t.Error("a newer peer's kind prints nothing")
	}
}

// The layout of ids is frozen: they are in every key and every log.
func TestIDs(t *testing.T) {
	if Root.String() != "2000000000000001" || !Root.IsDir() || !Root.Valid() {
		t.Errorf("the root is %v", Root)
	}
	id := MakeInodeID(KindSymlink, 77)
	if id.Kind() != KindSymlink || id.Number() != 77 || id.IsDir() {
		t.Errorf("%v: %v %d", id, id.Kind(), id.Number())
	}
	for _, bad := range []InodeID{0, 5, InodeID(4) << 61, InodeID(7)<<61 | 3, InodeID(KindFile) << 61} {
		if bad.Valid() {
			t.Errorf("%v is valid", bad)
		}
	}
	b := MakeBlockID(200, 1)
	if b.Shard() != 200 || MakeBlockID(0, 2) < b {
		t.Errorf("block ids do not increase: %v", b)
	}
	n, err := ParseNodeID(NodeID(0xabc).String())
	if err != nil || n != 0xabc {
		t.Errorf("%v, %v", n, err)
	}
	for _, bad := range []string{"", "0", "0000000000000000", "xyz", "00000000000000001", "-000000000000001"} {
		if n, err := ParseNodeID(bad); err == nil {
			t.Errorf("%q is node %v", bad, n)
		}
	}
}
