package blockd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"

	"eggsfs/eggs"
	"eggsfs/internal/disk"
)

const (
	blockMagic  = "EGGSBLK\x01"
	headerBytes = 64
	crcBytes    = 4 // of one page's checksum
	pageSize    = eggs.PageSize
	blocksName  = "blocks"
	maxTable    = eggs.MaxBlock / pageSize * crcBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a block file says of itself.
type header struct {
	block   eggs.BlockID
	disk    eggs.DiskID
	written eggs.Time
	size    uint32 // bytes of data
	crc     uint32 // of the data
	table   uint32 // checksum of the table
}

func (h header) append(b []byte) []byte {
	at := len(b)
	b = append(b, blockMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.block))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.disk))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.written))
	b = binary.LittleEndian.AppendUint32(b, h.size)
	b = binary.LittleEndian.AppendUint32(b, h.crc)
	b = binary.LittleEndian.AppendUint32(b, h.table)
	b = append(b, make([]byte, 16)...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func parseHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if want, found := le.Uint32(b[60:]), crc32.Checksum(b[:60], castagnoli); want != found {
		return header{}, fmt.Errorf("header: checksum %08x wanted, %08x found", want, found)
	}
	if !bytes.Equal(b[:8], []byte(blockMagic)) {
		return header{}, errors.New("header: not of a block, or of a newer version")
	}
	return header{
		block: eggs.BlockID(le.Uint64(b[8:])), disk: eggs.DiskID(le.Uint64(b[16:])),
		written: eggs.Time(le.Uint64(b[24:])), size: le.Uint32(b[32:]),
		crc: le.Uint32(b[36:]), table: le.Uint32(b[40:]),
	}, nil
}

// fileSize is that of a block's file, sizeOf the inverse.
func fileSize(size uint32) int64 { return int64(size) + headerBytes + tableSize(size) }

func tableSize(size uint32) int64 { return int64(size) / pageSize * crcBytes }

func sizeOf(fileSize int64) uint32 {
	return uint32(max(fileSize-headerBytes, 0) / (pageSize + crcBytes) * pageSize)
}

func dirOf(s eggs.ShardID) string { return fmt.Sprintf(blocksName+"/%02x", uint8(s)) }

func nameOf(id eggs.BlockID) string { return dirOf(id.Shard()) + "/" + id.String() }

// idOf is the inverse of the last part of nameOf; false for a foreign file.
func idOf(name string) (eggs.BlockID, bool) {
	id, err := strconv.ParseUint(name, 16, 64)
	return eggs.BlockID(id), err == nil && len(name) == 16
}

// openBlock opens a block's file and reads its header and the checksums of
// pages [first, end) into table.
func openBlock(
	f *disk.Folder, id eggs.BlockID, size uint32, first, end uint32, table []byte,
) (*os.File, header, error) {
	file, err := f.OpenFile(nameOf(id), os.O_RDONLY)
	if err != nil {
		return nil, header{}, err
	}
	h, err := readHeader(f, file, id, size, first, end, table)
	if err != nil {
		file.Close()
		return nil, header{}, err
	}
	return file, h, nil
}

func readHeader(
	f *disk.Folder, file *os.File, id eggs.BlockID, size, first, end uint32, table []byte,
) (header, error) {
	d := f.Identity().Disk
	// One read where the header and the checksums lie close together.
	const together = 4096
	var buf [together]byte
	b := buf[:headerBytes]
	near := headerBytes+int(end)*crcBytes <= together
	if near {
		b = buf[:headerBytes+int(end)*crcBytes]
	}
	if err := readAt(f, file, b, int64(size)); err != nil {
		return header{}, blockError(d, id, err)
	}
	h, err := parseHeader(b[:headerBytes])
	if err == nil && (h.block != id || h.disk != d || h.size != size) {
		err = fmt.Errorf("this is block %s of disk %s with %d bytes, not of %d",
			h.block, h.disk, h.size, size)
	}
	if err != nil {
		return header{}, corrupt(d, id, int64(size), err)
	}
	if near {
		copy(table, b[headerBytes+int(first)*crcBytes:])
		return h, nil
	}
	err = readAt(f, file, table, int64(size)+headerBytes+int64(first)*crcBytes)
	return h, blockError(d, id, err)
}

// readAt reads all of b; a file that ends before is Corrupt.
func readAt(f *disk.Folder, file *os.File, b []byte, off int64) error {
	_, err := f.ReadAt(file, b, off)
	if errors.Is(err, io.EOF) {
		return &eggs.Error{Kind: eggs.Corrupt, Err: fmt.Errorf("the file ends before offset %d",
			off+int64(len(b)))}
	}
	return err
}

// blockError says which block an error is about; nil stays nil.
func blockError(d eggs.DiskID, id eggs.BlockID, err error) error {
	if err == nil {
		return nil
	}
	return &eggs.Error{
		Op: "blockd.Read", Name: "disk " + d.String() + " block " + id.String(),
		Kind: eggs.KindOf(err), Err: err, Disks: []eggs.DiskID{d},
	}
}

// corrupt is the error of a wrong checksum at offset off of a block's file.
func corrupt(d eggs.DiskID, id eggs.BlockID, off int64, err error) error {
	return &eggs.Error{
		Op: "blockd.Read", Name: "disk " + d.String() + " block " + id.String(),
		Kind: eggs.Corrupt, Err: fmt.Errorf("offset %d: %w", off, err), Disks: []eggs.DiskID{d},
	}
}

// badPage is the error of a page whose checksum is not the one that goes with it.
func badPage(d eggs.DiskID, id eggs.BlockID, off int64, want, found uint32) error {
	return corrupt(d, id, off, fmt.Errorf("checksum %08x wanted, %08x found", want, found))
}

// A checksum is a linear function of the bits it covers, so moving it over a
// page of zeros is a table look-up for each of its bytes, and the checksum of
// a block follows from those of its pages without reading them again.
var overPage = func() (t [4][256]uint32) {
	zeros := make([]byte, pageSize)
	for i := range t {
		for bit := range 8 {
			moved := ^crc32.Update(^uint32(1<<(8*i+bit)), castagnoli, zeros)
			for v := range t[i] {
				if v>>bit&1 != 0 {
					t[i][v] ^= moved
				}
			}
		}
	}
	return t
}()

// combine returns the checksum of the pages whose checksums are in table.
func combine(table []byte) uint32 {
	var c uint32
	for ; len(table) >= crcBytes; table = table[crcBytes:] {
		c = overPage[0][c&0xff] ^ overPage[1][c>>8&0xff] ^ overPage[2][c>>16&0xff] ^
			overPage[3][c>>24] ^ binary.LittleEndian.Uint32(table)
	}
	return c
}

// checkPages compares whole pages with their checksums; bad is the index of the
// first one that is wrong, or -1.
func checkPages(table, pages []byte) (bad int, want, found uint32) {
	for i := 0; len(pages) > 0; i++ {
		want = binary.LittleEndian.Uint32(table[crcBytes*i:])
		found = crc32.Checksum(pages[:pageSize], castagnoli)
		if want != found {
			return i, want, found
		}
		pages = pages[pageSize:]
	}
	return -1, 0, 0
}
