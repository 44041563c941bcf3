package client

import (
	"context"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Limits of reports of bad blocks. They are hints: what is not told is found by the scrubber.
const (
	reportAgain = 10 * time.Minute // a block is not told of again
	reportMost  = 10_000           // blocks remembered; then all are forgotten
	reportWait  = 5 * time.Second  // for an answer
)

// badReports remembers which bad blocks were told of.
type badReports struct {
	mu   sync.Mutex
	told map[uint64]time.Time // by block
}

// first reports whether a block is to be told of now.
func (b *badReports) first(block uint64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.told[block]; ok && now.Sub(t) < reportAgain {
		return false
	}
	if b.told == nil || len(b.told) >= reportMost {
		b.told = make(map[uint64]time.Time)
	}
	b.told[block] = now
	return true
}

// reportBad tells the file's shard, in the background, of a block that is missing or wrong, so
// that it is made anew.
func (c *Client) reportBad(file eggs.InodeID, s *span, block int) {
	cert := s.certs[block]
	if !c.reports.first(cert.Block, time.Now()) {
		return
	}
	c.spawn(func() {
		ctx, cancel := context.WithTimeout(c.ctx, reportWait)
		defer cancel()
		_, err := c.Query(ctx, &wire.ShardQuery{
			Shard: uint32(file.Shard()),
			Query: &wire.ShardQuery_ReportBad{ReportBad: &wire.ReportBad{Blocks: []*wire.BadBlock{{
				File: uint64(file), Offset: uint64(s.off), Disk: cert.Disk, Block: cert.Block,
			}}}},
		})
		if err != nil {
			c.log.Debug("a bad block could not be reported", "file", file, "err", err)
		}
	})
}
