package upkeep

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// work is one round of repair.
type work struct {
	m       *Migrator
	leaving map[eggs.DiskID]Leaving

	mu   sync.Mutex
	done int   // spans that got new blocks
	err  error // why the last one that failed did
}

// job is a span with blocks to make anew.
type job struct {
	span *client.BlockSpan
	at   []int // their positions
	dead int   // of them, on disks that are given up, or bad
}

// file makes blocks of one file anew, where it has lost most first.
func (w *work) file(ctx context.Context, id eggs.InodeID) {
	m := w.m
	jobs, err := w.jobs(ctx, id)
	if err == nil {
		slices.SortStableFunc(jobs, func(a, b job) int { return b.dead - a.dead })
		for _, j := range jobs {
			serr := m.span(ctx, j)
			if serr == nil {
				w.mu.Lock()
				w.done++
				w.mu.Unlock()
				continue
			}
			if err = serr; !lost(err) {
				break // the next span would meet the same trouble
			}
		}
	}
	switch eggs.KindOf(err) {
	case eggs.NotExist, eggs.Conflict:
		err = nil // somebody else has done it, or the file is gone
	case eggs.Permission:
		// Under construction, or the collector's: its end is waited for.
		m.leaveFor(id, repairPause)
		return
	}
	if err == nil {
		m.forgetBad(id)
		return
	}
	if ctx.Err() != nil {
		return
	}
	m.stat[statFailed].Add(1)
	m.leaveFor(id, 0)
	m.tell(err)
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
}

// jobs finds what a file has to make anew.
func (w *work) jobs(ctx context.Context, id eggs.InodeID) ([]job, error) {
	bad := w.m.badOf(id)
	var jobs []job
	for offset := int64(0); ; {
		spans, next, err := w.m.c.BlockSpans(ctx, id, offset)
		if err != nil {
			return nil, err
		}
		for _, s := range spans {
			j := job{span: s}
			for i, b := range s.Blocks {
				why := w.leaving[eggs.DiskID(b.Disk)]
				wrong := bad[b.Block] && w.m.isBad(ctx, b)
				if why == Stays && !wrong {
					continue
				}
				j.at = append(j.at, i)
				if why == Retired || wrong {
					j.dead++
				}
			}
			if len(j.at) > 0 {
				jobs = append(jobs, j)
			}
		}
		if offset = next; next == 0 {
			return jobs, nil
		}
	}
}

// isBad reports whether a block is missing from its disk or wrong there.
func (m *Migrator) isBad(ctx context.Context, b *wire.Certificate) bool {
	k := eggs.KindOf(m.c.CheckBlock(ctx, b))
	return k == eggs.Corrupt || k == eggs.NotExist
}

// span makes blocks of one span anew and has them take the place of the old ones.
func (m *Migrator) span(ctx context.Context, j job) error {
	return m.makeAnew(ctx, j, func(rec *client.Recovered) error {
		var avoid []eggs.DiskID
		for i := range rec.Blocks { // one that may not take blocks is not chosen; a bad block's disk rather not
			avoid = append(avoid, eggs.DiskID(j.span.Blocks[i].Disk))
		}
		err := m.c.ReplaceBlocks(ctx, j.span, rec.Blocks, avoid)
		if eggs.KindOf(err) == eggs.NoSpace {
			err = m.c.ReplaceBlocks(ctx, j.span, rec.Blocks, nil)
		}
		return err
	})
}

// makeAnew gets a span's blocks and has replace put them elsewhere, within the limits of repair.
func (m *Migrator) makeAnew(ctx context.Context, j job, replace func(*client.Recovered) error) error {
	size := j.span.BlockSize()
	if err := pay(ctx, m.limit, int64(len(j.at))*size); err != nil {
		return err
	}
	memory := min(int64(int(j.span.Parity.D)+len(j.at))*size, repairMemory)
	if err := m.held.Acquire(ctx, memory); err != nil {
		return &eggs.Error{Op: "upkeep.Wait", Kind: eggs.Canceled, Err: err}
	}
	defer m.held.Release(memory)
	rec, err := m.c.RecoverBlocks(ctx, j.span, j.at)
	if err != nil {
		if lost(err) {
			m.stat[statLost].Add(1)
		}
		return err
	}
	defer rec.Release()
	if err := replace(rec); err != nil {
		return err
	}
	n := uint64(len(rec.Blocks))
	m.stat[statSpans].Add(1)
	m.stat[statBlocks].Add(n)
	m.stat[statBytes].Add(n * uint64(size))
	m.stat[statRebuilt].Add(n - uint64(rec.Copied))
	m.log.Debug("a span has new blocks", "file", j.span.File, "offset", j.span.Offset, "blocks", n,
		"rebuilt", n-uint64(rec.Copied))
	return nil
}

// lost reports whether an error says that too few good blocks of a span are in reach.
func lost(err error) bool {
	k := eggs.KindOf(err)
	return k == eggs.Corrupt || k == eggs.IO || k == eggs.Unavailable
}

// badOf returns the blocks of a file that were reported.
func (m *Migrator) badOf(id eggs.InodeID) map[uint64]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	bad := make(map[uint64]bool)
	for _, b := range m.bad[id] {
		bad[b.Block] = true
	}
	return bad
}

// forgetBad ends with a file.
func (m *Migrator) forgetBad(id eggs.InodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.bad, id)
	delete(m.left, id)
}

func (m *Migrator) leftAlone(id eggs.InodeID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.left[id].until)
}

// leaveFor has a file looked at again after d; 0: after a pause that doubles each time.
func (m *Migrator) leaveFor(id eggs.InodeID, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.left) >= remembered {
		clear(m.left)
	}
	l := m.left[id]
	if d == 0 {
		l.pause = min(max(2*l.pause, repairPause), repairLongest)
		d = l.pause
	}
	l.until = time.Now().Add(d)
	m.left[id] = l
}

// tell sends an event about a kind of trouble, now and then.
func (m *Migrator) tell(err error) {
	kind := eggs.KindOf(err).String()
	m.mu.Lock()
	due := time.Since(m.told[kind]) > tellRepairs
	if due {
		m.told[kind] = time.Now()
	}
	m.mu.Unlock()
	if due {
		m.cfg.Event("warn", fmt.Sprintf("blocks could not be made anew, it is tried again: %v", err))
	}
}

// Left is what is left on a disk.
type Left struct {
	Files, Blocks uint64
}

// LeftOn counts what the shards have on disks, files under construction and
// deleted ones included.
func LeftOn(ctx context.Context, c client.Operator, disks []eggs.DiskID) (map[eggs.DiskID]Left, error) {
	out := make(map[eggs.DiskID]Left)
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for s := range eggs.Shards {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, d := range disks {
				n, err := leftOf(ctx, c, place{eggs.ShardID(s), d})
				mu.Lock()
				sum := out[d]
				out[d] = Left{sum.Files + n.Files, sum.Blocks + n.Blocks}
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out, failed
}

func leftOf(ctx context.Context, c client.Operator, p place) (n Left, err error) {
	for after := uint64(0); ; {
		got, err := filesOnDisk(ctx, c, p, after)
		if err != nil {
			return n, err
		}
		for i, id := range got.GetFiles() {
			after = id
			n.Files++
			n.Blocks += uint64(got.Blocks[i])
		}
		if got.GetEnd() || len(got.GetFiles()) == 0 {
			return n, nil
		}
	}
}
