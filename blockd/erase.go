package blockd

import (
	"errors"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// erase removes a block for ever and answers with a proof.
func (c *conn) erase(wc *wire.Certificate) error {
	cert, err := certOf(wc)
	if err != nil {
		return err
	}
	if !c.server.config.Auth.CheckErase(cert, wc.Mac) {
		return forbidden("blockd.Erase", cert)
	}
	c.known = true
	s, err := c.server.begin(wc.Disk, true)
	if err != nil {
		return c.fail(err, 0)
	}
	defer s.done()
	if err := s.erase(record{kind: kindErased, id: cert.Block, mark: cert.Mark}); err != nil {
		return c.fail(err, 0)
	}
	s.stats.erases.Add(1)
	return c.reply(&wire.BlockReply{Proof: &wire.Proof{
		Disk: wc.Disk, Block: wc.Block, Mac: c.server.config.Auth.EraseProof(cert),
	}})
}

// erase notes mark and tombstone, makes them durable, and unlinks, in this order.
func (s *service) erase(r record) error {
	if err := s.marks.note(r, maxTombstones); err != nil {
		return err
	}
	s.mu.Lock()
	s.unlinking[r.id]++
	s.mu.Unlock()
	err := s.journal.append(r, s.live)
	if err == nil {
		err = s.unlink(r.id)
	}
	s.mu.Lock()
	if s.unlinking[r.id]--; s.unlinking[r.id] == 0 {
		delete(s.unlinking, r.id)
	}
	s.mu.Unlock()
	if err != nil {
		return s.trouble(err)
	}
	return nil
}

// unlink removes a block's name if it is there. That its directory is not
// synced is noted: the journal repeats the unlink until it is.
func (s *service) unlink(id eggs.BlockID) error {
	l := &s.shards[id.Shard()]
	l.Lock()
	defer l.Unlock()
	err := s.folder.Remove(nameOf(id))
	if errors.Is(err, eggs.NotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.counted {
		s.blocks.Add(-1)
	}
	s.mu.Lock()
	s.unlinked[id.Shard()] = true
	s.mu.Unlock()
	return nil
}

// live returns the records that the journal must still hold: marks and
// tombstones, and erases whose unlink has not happened. Unlinks that have are made durable.
func (s *service) live() ([]record, error) {
	s.mu.Lock()
	var pending []eggs.BlockID
	for id := range s.unlinking {
		pending = append(pending, id)
	}
	dirs := s.unlinked
	s.unlinked = map[eggs.ShardID]bool{}
	s.mu.Unlock()
	for shard := range dirs {
		if err := s.folder.SyncDir(dirOf(shard)); err != nil {
			return nil, err
		}
	}
	records := s.marks.records()
	for _, id := range pending {
		records = append(records, record{kind: kindErased, id: id})
	}
	return records, nil
}
