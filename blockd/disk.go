package blockd

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"eggsfs/eggs"
	"eggsfs/internal/disk"
	"eggsfs/wire"
)

// service is one disk: a block service.
type service struct {
	config  DiskConfig
	node    eggs.NodeID
	say     func(level, text string)
	folder  *disk.Folder // nil when it could not be opened
	id      eggs.DiskID
	volume  *volume
	journal *journal // nil when it is damaged
	marks   marks
	blocks  atomic.Int64
	stats   counters
	probe   probe

	// One lock for each shard: renames and unlinks of its blocks.
	shards [eggs.Shards]struct {
		sync.Mutex
		made    bool // its directory is there, durably
		counted bool // blocks counts what is in it
	}

	mu        sync.Mutex
	gone      error                 // it is not served
	readOnly  error                 // it takes no writes
	unlinking map[eggs.BlockID]int  // in the journal, to be unlinked: how many erases are at it
	unlinked  map[eggs.ShardID]bool // directories with unlinks that are not synced
}

// openService opens a disk. A disk that cannot be opened is one that is gone.
func openService(c Config, dc DiskConfig, say func(level, text string)) *service {
	s := &service{
		config: dc, node: c.Node, say: say, id: dc.Want,
		unlinking: map[eggs.BlockID]int{}, unlinked: map[eggs.ShardID]bool{},
	}
	f, err := disk.Open(disk.Options{
		Path: dc.Path, Want: dc.Want, Cluster: c.Cluster, Node: c.Node, Fault: dc.fault,
	})
	if err != nil {
		s.setGone(err)
		return s
	}
	s.folder, s.id = f, f.Identity().Disk
	if err := s.load(); err != nil {
		f.Close()
		s.setGone(err)
	}
	return s
}

// load reads the journal and the directories.
func (s *service) load() error {
	_, err := s.folder.Stat(journalName)
	if errors.Is(err, eggs.NotExist) {
		if _, err := s.folder.Stat(blocksName); errors.Is(err, eggs.NotExist) {
			if err := createJournal(s.folder); err != nil {
				return err
			}
		}
	}
	if err := s.folder.Mkdir(blocksName); err != nil {
		return err
	}
	names, err := s.folder.Names(blocksName)
	if err != nil {
		return err
	}
	if len(names) > 0 { // a kill may have left the last ones unsynced
		if err := s.folder.SyncDir(blocksName); err != nil {
			return err
		}
	}
	for i := range s.shards {
		s.shards[i].counted = true
	}
	for _, n := range names {
		if i, ok := shardOf(n); ok {
			s.shards[i].made, s.shards[i].counted = true, false
		}
	}
	var erased []eggs.BlockID
	s.journal, err = openJournal(s.folder, func(r record) {
		if r.kind == kindErased {
			erased = append(erased, r.id)
		}
		_ = s.marks.note(r, 2*maxTombstones) // the limit is for new ones
	})
	if err != nil {
		s.journal = nil
		s.setReadOnly(err)
		return nil
	}
	for _, id := range erased {
		if err := s.unlink(id); err != nil {
			return err
		}
	}
	return nil
}

func shardOf(name string) (eggs.ShardID, bool) {
	for i := range eggs.Shards {
		if dirOf(eggs.ShardID(i)) == blocksName+"/"+name {
			return eggs.ShardID(i), true
		}
	}
	return 0, false
}

// count counts the blocks of directories that were there at the start, one shard
// at a time, so that a start does not wait for millions of names.
func (s *service) count(stop <-chan struct{}) {
	for i := range s.shards {
		select {
		case <-stop:
			return
		default:
		}
		l := &s.shards[i]
		l.Lock()
		if !l.counted {
			names, err := s.folder.Names(dirOf(eggs.ShardID(i)))
			if err != nil {
				l.Unlock()
				s.trouble(err)
				return
			}
			for _, n := range names {
				if _, ok := idOf(n); ok {
					s.blocks.Add(1)
				}
			}
			l.counted = true
		}
		l.Unlock()
	}
}

// serving fails with Kind BadDisk if the disk is not served or, for a write, takes none.
func (s *service) serving(write bool) error {
	s.mu.Lock()
	err := s.gone
	if err == nil && write {
		err = s.readOnly
	}
	s.mu.Unlock()
	if err == nil {
		return nil
	}
	return &eggs.Error{Op: "blockd.Disk", Kind: eggs.BadDisk, Err: err, Disks: []eggs.DiskID{s.id}}
}

func (s *service) setGone(err error) {
	s.mu.Lock()
	first := s.gone == nil
	if first {
		s.gone = err
	}
	s.mu.Unlock()
	if first {
		s.say("error", "disk "+s.name()+" is not served: "+err.Error())
		if s.volume != nil {
			s.volume.leave()
		}
	}
}

func (s *service) setReadOnly(err error) {
	s.mu.Lock()
	first := s.readOnly == nil
	if first {
		s.readOnly = err
	}
	s.mu.Unlock()
	if first {
		s.say("error", "disk "+s.name()+" takes no more writes: "+err.Error())
	}
}

func (s *service) name() string {
	if s.id == 0 {
		return s.config.Path
	}
	return s.id.String() + " at " + s.config.Path
}

// trouble looks at an error that a healthy disk would not give, and returns
// what to tell the client. A full disk is healthy.
func (s *service) trouble(err error) error {
	switch eggs.KindOf(err) {
	case eggs.NoSpace:
		return &eggs.Error{Op: "blockd.Disk", Err: err, Disks: []eggs.DiskID{s.id}}
	case eggs.Busy:
		return err
	case eggs.IO:
		s.setReadOnly(err)
	}
	if gone := s.folder.Check(); gone != nil {
		s.setGone(gone)
	}
	return &eggs.Error{Op: "blockd.Disk", Kind: eggs.BadDisk, Err: err, Disks: []eggs.DiskID{s.id}}
}

// quiet is how long a disk may not answer and still be given blocks.
const quiet = 2 * time.Second

// status is the disk's truth about itself. A disk that hangs does not hang its asker.
func (s *service) status(stall time.Duration) *wire.DiskStatus {
	st := &wire.DiskStatus{
		Id: uint64(s.id), Path: s.config.Path, Class: uint32(s.config.Class),
		Node: uint64(s.node), Blocks: uint64(max(s.blocks.Load(), 0)),
	}
	var space disk.Space
	var silent time.Duration
	if s.serving(false) == nil {
		space, silent = s.look(lookTime)
	}
	s.mu.Lock()
	err := s.gone
	if err == nil {
		share := s.volume.share(space)
		st.Capacity, st.Free = share.Capacity, share.Free
		err = s.readOnly
	}
	s.mu.Unlock()
	if err == nil && silent > stall {
		err = fmt.Errorf("the disk has not answered for %s", silent.Truncate(time.Second))
	}
	// One that is slow to answer may still read; new blocks go elsewhere long before it is given up.
	st.Writable = err == nil && silent < quiet
	if err != nil {
		st.Error = err.Error()
	}
	return st
}

func (s *service) close() {
	if s.journal != nil {
		s.journal.close()
	}
	if s.folder != nil {
		s.folder.Close()
	}
}
