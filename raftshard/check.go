package raftshard

import (
	"fmt"
	"sort"

	"eggsfs/eggs"
	"eggsfs/raftgroup"
	"eggsfs/wire"
)

// maxFaults bounds what one check reports: the first ones tell what is broken.
const maxFaults = 1000

// Check runs the shard's invariants, those of the package comment, on a state that does
// not change meanwhile. It reads everything once, and holds the
// directories, the ids of files and the blocks in memory.
func Check(r raftgroup.Reader, shard eggs.ShardID) []*wire.Fault {
	c := &checker{
		r: r, shard: shard,
		dirs: map[eggs.InodeID]*checkedDir{}, files: map[eggs.InodeID]*checkedFile{},
		blocks: map[uint64]eggs.InodeID{}, disks: map[diskFile]uint32{},
		uncertified: map[uint64][2]uint64{},
	}
	if v, ok := r.Get([]byte{tableState}); ok {
		c.state.decode(v)
	}
	c.directories()
	c.edges()
	c.snapshots()
	c.linked()
	c.transients()
	c.spans()
	c.owners()
	c.indexes()
	c.holdings()
	c.counts()
	sort.Slice(c.faults, func(i, j int) bool { // they come from maps
		a, b := c.faults[i], c.faults[j]
		return a.Invariant < b.Invariant || a.Invariant == b.Invariant && a.Text < b.Text
	})
	return c.faults
}

type checkedDir struct {
	rec              *DirectoryRecord
	edges, snapshots uint64
}

type checkedFile struct {
	file      *FileRecord
	transient *TransientRecord
	owning    int // unlocked current edges and owned past ones here
	edges     int // all current edges here
	size      uint64
	spans     uint64
	last      uint64
	content   uint32
}

type diskFile struct{ disk, file uint64 }

type checker struct {
	r      raftgroup.Reader
	shard  eggs.ShardID
	state  state
	faults []*wire.Fault

	dirs        map[eggs.InodeID]*checkedDir
	files       map[eggs.InodeID]*checkedFile
	blocks      map[uint64]eggs.InodeID
	disks       map[diskFile]uint32
	uncertified map[uint64][2]uint64 // lowest block → file, offset

	nFiles, nTransient, nEdges, nSnapshots, nSpans, nBlocks, nReserved uint64
	targets                                                            []target
}

// target is what an edge says of an inode that should live here.
type target struct {
	id, dir eggs.InodeID
	name    string
	current bool
	locked  bool
}

func (c *checker) fault(invariant uint32, format string, args ...any) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults, &wire.Fault{
			Invariant: invariant, Text: fmt.Sprintf(format, args...),
		})
	}
}

func (c *checker) scan(table byte, f func(k, v []byte)) {
	c.r.Scan([]byte{table}, []byte{table + 1}, false, func(k, v []byte) bool {
		f(k, v)
		return true
	})
}

// read decodes a value; what cannot be read is a fault of its own.
func (c *checker) read(k, v []byte, m message) bool {
	if err := m.UnmarshalVT(v); err != nil {
		c.fault(0, "the value of key %x cannot be read", k)
		return false
	}
	return true
}

func (c *checker) directories() {
	c.scan(tableDirectory, func(k, v []byte) {
		id, d := eggs.InodeID(u64(k[1:])), &DirectoryRecord{}
		if !c.read(k, v, d) {
			return
		}
		c.dirs[id] = &checkedDir{rec: d}
		if !id.IsDir() || id.Shard() != c.shard {
			c.fault(14, "directory %v is not of this shard", id)
		}
		if d.Ctime > int64(c.state.time) {
			c.fault(4, "directory %v changed after the group's time", id)
		}
		if removed(id, d) {
			if own, err := policies(id, d); err != nil || tagsOf(own) != tagAll {
				c.fault(13, "removed directory %v lacks policy tags", id)
			}
		}
		_, due := c.r.Get(key1(tableDirDue, id))
		if due != dirDue(id, d) {
			c.fault(41, "directory %v: in the collector's index is %v", id, due)
		}
	})
	c.scan(tableDirDue, func(k, _ []byte) {
		if c.dirs[eggs.InodeID(u64(k[1:]))] == nil {
			c.fault(41, "the collector's index has directory %x, which is not there", k[1:])
		}
	})
}

// named checks what both kinds of edge have in common.
func (c *checker) named(dir eggs.InodeID, hash uint64, name string, t eggs.Time) *checkedDir {
	if eggs.CheckName(name) != nil || eggs.NameHash(name) != hash {
		c.fault(11, "%v %q: the name or its hash is not valid", dir, name)
	}
	d := c.dirs[dir]
	if d == nil {
		c.fault(2, "%v %q: an edge without its directory", dir, name)
		return nil
	}
	if t > eggs.Time(d.rec.Ctime) {
		c.fault(4, "%v %q: the edge is younger than its directory's last change", dir, name)
	}
	return d
}

func (c *checker) edges() {
	c.scan(tableEdge, func(k, v []byte) {
		dir, hash, b := splitNameKey(k)
		name, e := string(b), &EdgeRecord{}
		if !c.read(k, v, e) {
			return
		}
		c.nEdges++
		d := c.named(dir, hash, name, eggs.Time(e.Time))
		if d != nil {
			d.edges++
			if removed(dir, d.rec) {
				c.fault(2, "%v %q: a current edge in a removed directory", dir, name)
			}
		}
		if e.Locked != 0 && e.Locked < c.state.oldest {
			c.fault(12, "%v %q: locked by transaction %d, which ended", dir, name, e.Locked)
		}
		c.target(target{eggs.InodeID(e.Target), dir, name, true, e.Locked != 0})
	})
}

// target remembers what an owning edge points to, if that lives here.
func (c *checker) target(t target) {
	if !t.id.Valid() {
		c.fault(7, "%v %q: an edge to %v, which is no inode", t.dir, t.name, t.id)
	} else if t.id.Shard() == c.shard {
		c.targets = append(c.targets, t)
	}
}

func (c *checker) snapshots() {
	var prev struct {
		prefix string
		time   eggs.Time
		marker bool
	}
	c.scan(tableSnapshot, func(k, v []byte) {
		if len(k) < 27 {
			c.fault(0, "key %x is too short", k)
			return
		}
		dir, hash, b, t := splitSnapshotKey(k)
		name, s := string(b), &SnapshotRecord{}
		if !c.read(k, v, s) {
			return
		}
		c.nSnapshots++
		if d := c.named(dir, hash, name, t); d != nil {
			d.snapshots++
		}
		marker := s.Target == 0
		prefix := string(k[:len(k)-8])
		switch {
		case marker && s.Owned:
			c.fault(5, "%v %q at %d: a deletion marker that is owned", dir, name, t)
		case marker && prev.prefix == prefix && prev.marker:
			c.fault(5, "%v %q at %d: a deletion marker after another", dir, name, t)
		case s.Owned && eggs.InodeID(s.Target).IsDir():
			c.fault(5, "%v %q at %d: a past edge owns a directory", dir, name, t)
		}
		prev.prefix, prev.time, prev.marker = prefix, t, marker
		if e, ok := load[EdgeRecord](c.r, nameKey(tableEdge, dir, hash, name)); ok &&
			eggs.Time(e.Time) <= t {
			c.fault(3, "%v %q at %d: a past edge is not older than the current one", dir, name, t)
		}
		if s.Owned {
			c.target(target{eggs.InodeID(s.Target), dir, name, false, false})
		}
	})
}

// owners checks, for inodes that live here, what the edges that live here say.
func (c *checker) owners() {
	for _, t := range c.targets {
		if t.id.IsDir() {
			d := c.dirs[t.id]
			switch {
			case d == nil && !t.locked:
				c.fault(7, "%v %q: points to %v, which is not there", t.dir, t.name, t.id)
			case d != nil && !t.locked && d.rec.Owner != uint64(t.dir):
				c.fault(8, "%v %q: points to %v, whose owner is %x",
					t.dir, t.name, t.id, d.rec.Owner)
			}
			continue
		}
		f := c.files[t.id]
		if f == nil || f.file == nil {
			c.fault(7, "%v %q: owns %v, which is not a linked file", t.dir, t.name, t.id)
			continue
		}
		if t.current {
			f.edges++
		}
		if !t.locked {
			f.owning++
		}
		if f.owning > 1 || f.edges > 2 {
			c.fault(6, "%v %q: one owning edge too many of %v", t.dir, t.name, t.id)
		}
	}
}

// holdings checks what sessions hold.
func (c *checker) holdings() {
	live := func(session uint64) bool { return sessions.Live(c.r, session, 0) }
	c.scan(tableLease, func(k, _ []byte) {
		id := eggs.InodeID(u64(k[9:]))
		if !live(u64(k[1:])) {
			c.fault(34, "id %v is leased to a session that ended", id)
		}
		if c.files[id] != nil {
			c.fault(14, "id %v is leased and used", id)
		}
		if id.Number() > c.state.file || id.Shard() != c.shard {
			c.fault(14, "id %v is leased and was never handed out", id)
		}
	})
	c.scan(tableReserved, func(k, v []byte) {
		r := &ReservationRecord{}
		if !c.read(k, v, r) {
			return
		}
		c.nReserved++
		dir, hash, name := splitNameKey(k)
		if _, ok := c.r.Get(reservedByKey(r.Session, dir, hash, string(name))); !ok ||
			!live(r.Session) {
			c.fault(34, "%v %q: reserved by a session that ended", dir, name)
		}
	})
	c.scan(tableReservedBy, func(k, _ []byte) {
		if _, ok := c.r.Get(append([]byte{tableReserved}, k[9:]...)); !ok {
			c.fault(34, "session %x has a reservation that is not there", k[1:9])
		}
	})
}

// counts checks the state's counters, and those of the directories.
func (c *checker) counts() {
	for _, n := range []struct {
		what       string
		have, want uint64
	}{
		{"directories", c.state.directories, uint64(len(c.dirs))},
		{"files", c.state.files, c.nFiles},
		{"transient files", c.state.transient, c.nTransient},
		{"edges", c.state.edges, c.nEdges},
		{"past edges", c.state.snapshots, c.nSnapshots},
		{"spans", c.state.spans, c.nSpans},
		{"blocks", c.state.blocks, c.nBlocks},
		{"reserved names", c.state.reserved, c.nReserved},
	} {
		if n.have != n.want {
			c.fault(0, "%d %s are counted; there are %d", n.have, n.what, n.want)
		}
	}
	ids := make([]eggs.InodeID, 0, len(c.dirs))
	for id := range c.dirs {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	for _, id := range ids {
		if d := c.dirs[id]; d.edges != d.rec.Entries || d.snapshots != d.rec.Snapshots {
			c.fault(0, "directory %v counts %d edges and %d past ones; there are %d and %d",
				id, d.rec.Entries, d.rec.Snapshots, d.edges, d.snapshots)
		}
	}
}
