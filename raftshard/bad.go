package raftshard

import (
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// maxBad is the bad blocks that a shard remembers; more are found again by the scrubber.
const maxBad = 10_000

// badBlocks are blocks that readers found missing or wrong, on this node only
// and in memory only: a hint for whoever repairs.
type badBlocks struct {
	mu    sync.Mutex
	known map[wireBlock]bool
	list  []*wire.BadBlock
}

type wireBlock struct{ disk, block uint64 }

func (b *badBlocks) add(blocks []*wire.BadBlock) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range blocks {
		k := wireBlock{x.GetDisk(), x.GetBlock()}
		if b.known[k] || len(b.list) >= maxBad {
			continue
		}
		if b.known == nil {
			b.known = make(map[wireBlock]bool)
		}
		b.known[k] = true
		b.list = append(b.list, x)
	}
}

// TakeBad returns the bad blocks that were reported to this node, and forgets them.
func (s *Shard) TakeBad() []*wire.BadBlock { return s.bad.take() }

func (b *badBlocks) take() []*wire.BadBlock {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.list
	b.list, b.known = nil, nil
	return list
}

// reportBad remembers what a reader found, of files that are here.
func (a *query) reportBad(v *wire.ReportBad) error {
	var here []*wire.BadBlock
	for _, b := range v.GetBlocks() {
		id := eggs.InodeID(b.GetFile())
		if _, ok := a.r.Get(key1(tableFile, id)); ok {
			here = append(here, b)
		}
	}
	a.s.bad.add(here)
	return nil
}

// listFiles lists linked files by id.
func (a *query) listFiles(v *wire.ListFiles) error {
	out := &wire.Files{}
	out.Ids, out.End = a.ids(tableFile, nil, v.GetAfter(), listLimit(v.GetLimit()))
	a.made.Answer = &wire.ShardAnswer_ListFiles{ListFiles: out}
	return nil
}
