package erasure

import (
	"encoding/binary"
	"hash/crc32"

	"eggsfs/eggs"
)

// Castagnoli is the table of CRC32C for package hash/crc32.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC returns the CRC32C of b.
func CRC(b []byte) uint32 { return crc32.Checksum(b, Castagnoli) }

// A checksum's bits are a polynomial over GF(2), highest bit x^0. To append n
// zero bits multiplies it by x^n modulo the polynomial of CRC32C.
const polynomial = 0x82f63b78

// squares[k] is x^(2^k).
var squares = func() (t [66]uint32) {
	t[0] = 1 << 30
	for k := 1; k < len(t); k++ {
		t[k] = product(t[k-1], t[k-1])
	}
	return t
}()

// product multiplies two polynomials modulo that of CRC32C.
func product(a, b uint32) uint32 {
	var p uint32
	for ; a != 0; a <<= 1 {
		p ^= b & -(a >> 31)
		b = b>>1 ^ polynomial&-(b&1)
	}
	return p
}

// shiftBy returns x^(8n): what to multiply a checksum with when n bytes follow.
func shiftBy(n int64) uint32 {
	p := uint32(1) << 31
	for k := 3; n > 0; k++ {
		if n&1 != 0 {
			p = product(p, squares[k])
		}
		n >>= 1
	}
	return p
}

// CombineCRC returns the checksum of A followed by B, given their checksums
// and the length of B.
func CombineCRC(a, b uint32, lenB int64) uint32 { return product(a, shiftBy(lenB)) ^ b }

// ZerosCRC returns the checksum of what has checksum a followed by n zero bytes.
func ZerosCRC(a uint32, n int64) uint32 { return ^product(^a, shiftBy(n)) }

// pageTables multiply by x^(8·PageSize), a byte at a time: to combine pages is the
// hot case, so it costs four look-ups.
var pageTables = func() (t [4][256]uint32) {
	by := shiftBy(eggs.PageSize)
	for i := range t {
		for v := range t[i] {
			t[i][v] = product(uint32(v)<<(8*i), by)
		}
	}
	return t
}()

var zeroPageCRC = ZerosCRC(0, eggs.PageSize)

// combinePage is CombineCRC for a b of one page.
func combinePage(a, b uint32) uint32 {
	return pageTables[0][a&0xff] ^ pageTables[1][a>>8&0xff] ^
		pageTables[2][a>>16&0xff] ^ pageTables[3][a>>24] ^ b
}

// CombinePages returns the checksum of whole pages whose checksums are in
// table, 4 bytes each, little end first, as in Encoded.PageCRCs.
func CombinePages(table []byte) uint32 {
	var c uint32
	for ; len(table) >= 4; table = table[4:] {
		c = combinePage(c, binary.LittleEndian.Uint32(table))
	}
	return c
}

// PageCRCs appends the checksums of pages to table, 4 bytes each, little end first.
// A last piece shorter than a page is taken as a page by itself.
func PageCRCs(table, pages []byte) []byte {
	for len(pages) > 0 {
		n := min(len(pages), eggs.PageSize)
		table = binary.LittleEndian.AppendUint32(table, CRC(pages[:n]))
		pages = pages[n:]
	}
	return table
}

// CheckPages compares pages with their checksums and returns the index of the
// first page that is wrong and what was wanted and found, or -1. pages must be
// whole and table have 4 bytes for each.
func CheckPages(table, pages []byte) (bad int, want, found uint32) {
	for i := 0; i*eggs.PageSize < len(pages); i++ {
		want = binary.LittleEndian.Uint32(table[4*i:])
		found = CRC(pages[i*eggs.PageSize : (i+1)*eggs.PageSize])
		if want != found {
			return i, want, found
		}
	}
	return -1, 0, 0
}
