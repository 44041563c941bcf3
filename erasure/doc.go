// Package erasure cuts a span into the cells of its blocks and puts it
// together again. It is arithmetic only: it knows neither sockets nor disks.
//
// # The cut
//
// A span of Size bytes becomes D data blocks and P parity blocks of
// Stripes × CellSize bytes each. Stripe s is the bytes
// [s·D·CellSize, (s+1)·D·CellSize) of the span; its d-th cell is the piece
// [d·CellSize, (d+1)·CellSize) of that and lies in block d at s·CellSize:
//
//	span     | s0 d0 | s0 d1 | s1 d0 | s1 d1 |      D = 2, two stripes
//	block 0  | s0 d0 | s1 d0 |
//	block 1  | s0 d1 | s1 d1 |
//	block 2  | parity of s0 | parity of s1 |
//
// so the first bytes of a span are read without waiting for the last. What is
// beyond Size in the last stripe is zeros, on disk as well. With D = 1 all
// blocks are the same bytes: P+1 copies.
//
// # Parity
//
// The code is Reed-Solomon over GF(2^8) with the systematic Vandermonde matrix
// of klauspost/reedsolomon; golden sums in the tests freeze it,
// because old blocks must stay readable. It works byte by byte: byte i of a
// parity block depends on byte i of each data block and on nothing else. So
// any range, the same one of each block, can be rebuilt on its own, and a
// reader rebuilds just the pages it needs.
//
// # Checksums
//
// All are CRC32C. A page is eggs.PageSize bytes of a block and the unit that a
// block service checks. One pass over the data gives the page checksums; those
// of cells, stripes, blocks and the span are combined from them, since
// crc(A‖B) is a linear function of crc(A), crc(B) and len(B).
//
//	Encoded.PageCRCs[b]    each page of block b, 4 bytes each, little end first
//	Encoded.BlockCRCs[b]   all of block b, padding included
//	Encoded.StripeCRCs[s]  the D data cells of stripe s in order, padding included
//	Encoded.CRC            the Size bytes of the span
//
// # Invariants
//
// Data cells alias the span's buffer, parity cells a pooled one: nothing is
// copied but the last cells of a span whose buffer has no room for padding.
// CellSize is a multiple of eggs.CellAlign; no stripe is all padding.
package erasure
