package erasure

import (
	"fmt"
	"slices"

	"eggsfs/eggs"
)

// Rebuild makes the blocks named in want out of any D others. blocks has one
// slice for each of the D+P blocks, nil or empty for those that are missing;
// all others must hold the same range of their blocks: the whole, some cells, or some
// pages.
//
// A rebuilt block goes into the memory that its empty slice has capacity for,
// or into fresh memory; a nil mirror (D = 1) becomes an alias of a
// present one. Missing blocks that are not wanted stay as they are. What comes
// out is as good as what goes in: check pages before and after.
//
// It fails with Kind Invalid if the slices do not fit each other, and with Kind
// Corrupt if fewer than D blocks are there.
func Rebuild(l Layout, blocks [][]byte, want []int) error {
	const op = "erasure.Rebuild"
	n := l.Parity.Blocks()
	if len(blocks) != n || l.Parity.D == 0 {
		return eggs.E(op, eggs.Invalid, fmt.Sprintf("%d blocks for %s", len(blocks), l.Parity))
	}
	size, present, first := 0, 0, -1
	for b := range blocks {
		if len(blocks[b]) == 0 {
			continue
		}
		if first < 0 {
			first, size = b, len(blocks[b])
		}
		if len(blocks[b]) != size {
			return eggs.E(op, eggs.Invalid, fmt.Sprintf("block %d has %d bytes, block %d has %d",
				b, len(blocks[b]), first, size))
		}
		present++
	}
	required := make([]bool, n)
	missing := false
	for _, b := range want {
		if b < 0 || b >= n {
			return eggs.E(op, eggs.Invalid, fmt.Sprintf("no block %d in %s", b, l.Parity))
		}
		required[b] = len(blocks[b]) == 0
		missing = missing || required[b]
	}
	switch {
	case !missing:
		return nil
	case present < int(l.Parity.D):
		return eggs.E(op, eggs.Corrupt, fmt.Sprintf("only %d blocks of %s are good", present, l.Parity))
	case l.Parity.D == 1:
		mirror(blocks, required, first)
		return nil
	}
	code, err := coder(l.Parity)
	if err != nil {
		return err
	}
	// The coder takes an empty slice with capacity for the place of its result,
	// so those that are not wanted are hidden from it.
	work := slices.Clone(blocks)
	for b := range work {
		if len(work[b]) == 0 && !required[b] {
			work[b] = nil
		}
	}
	if err := code.ReconstructSome(work, required); err != nil {
		return &eggs.Error{Op: op, Kind: eggs.Invalid, Err: err}
	}
	for b := range work {
		if required[b] {
			blocks[b] = work[b]
		}
	}
	return nil
}

func mirror(blocks [][]byte, required []bool, from int) {
	for b := range blocks {
		switch {
		case !required[b]:
		case cap(blocks[b]) >= len(blocks[from]):
			blocks[b] = append(blocks[b][:0], blocks[from]...)
		default:
			blocks[b] = blocks[from]
		}
	}
}
