package blockd

import (
	"errors"
	"slices"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// maxListed is how many blocks one answer lists: 2,000 of 26 bytes fit a frame.
const maxListed = 2000

// listing is what a connection keeps of a directory while it is being listed,
// so that a large one is not read for each answer again.
type listing struct {
	disk  eggs.DiskID
	shard int // -1 when there is none
	keys  []uint64
}

// listKey orders blocks by shard and then counter, which is how they lie in
// directories; idAt is its inverse.
func listKey(id eggs.BlockID) uint64 { return uint64(id.Shard())<<56 | uint64(id)>>8 }

func idAt(key uint64) eggs.BlockID { return eggs.BlockID(key<<8 | key>>56) }

// list answers with blocks whose key is greater than that of after. No certificate is asked
// for, so it is only for those who have shown by TLS that they have the cluster's key.
func (c *conn) list(req *wire.ListBlocks) error {
	if !c.secure {
		return c.fail(&eggs.Error{
			Op: "blockd.List", Name: "disk " + eggs.DiskID(req.Disk).String(), Kind: eggs.Permission,
			Err: errors.New("blocks are listed over TLS only"),
		}, 0)
	}
	s, err := c.server.begin(req.Disk, false)
	if err != nil {
		return c.fail(err, 0)
	}
	defer s.done()
	limit := int(req.Limit)
	if limit == 0 || limit > maxListed {
		limit = maxListed
	}
	after := listKey(eggs.BlockID(req.After))
	if req.After == 0 || c.listed.disk != s.id {
		c.listed = listing{disk: s.id, shard: -1}
	}
	reply := &wire.BlockReply{}
	for shard := int(after >> 56); shard < eggs.Shards; shard++ {
		c.progress()
		if err := c.listed.read(s, shard); err != nil {
			return c.fail(s.trouble(err), 0)
		}
		at, found := slices.BinarySearch(c.listed.keys, after)
		if found {
			at++
		}
		for _, k := range c.listed.keys[at:] {
			if len(reply.Blocks) == limit {
				return c.reply(reply)
			}
			info, err := s.folder.Stat(nameOf(idAt(k)))
			if errors.Is(err, eggs.NotExist) {
				continue // erased meanwhile
			}
			if err != nil {
				return c.fail(s.trouble(err), 0)
			}
			reply.Blocks = append(reply.Blocks, &wire.BlockInfo{
				Id: uint64(idAt(k)), Size: sizeOf(info.Size), Written: int64(info.Written),
			})
		}
	}
	reply.End = true
	return c.reply(reply)
}

// read fills the listing with a shard's blocks, if it does not hold them yet.
func (l *listing) read(s *service, shard int) error {
	if l.shard == shard {
		return nil
	}
	l.shard, l.keys = shard, l.keys[:0]
	names, err := s.folder.Names(dirOf(eggs.ShardID(shard)))
	if errors.Is(err, eggs.NotExist) {
		return nil
	}
	if err != nil {
		l.shard = -1
		return err
	}
	for _, n := range names {
		if id, ok := idOf(n); ok && id.Shard() == eggs.ShardID(shard) {
			l.keys = append(l.keys, listKey(id))
		}
	}
	slices.Sort(l.keys)
	return nil
}
