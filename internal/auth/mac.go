package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"

	"eggsfs/eggs"
)

// MACBytes is the length of cookies, certificates' and proofs' MACs.
const MACBytes = 16

// macKey is an HMAC key; its pool keeps hashes that have taken the key in, so
// that a MAC costs two blocks of SHA-256 and no allocation but the result.
type macKey struct{ pool sync.Pool }

type macState struct {
	h   hash.Hash
	in  [1 + 5*8]byte
	out [sha256.Size]byte
}

func newMACKey(key []byte) *macKey {
	return &macKey{pool: sync.Pool{New: func() any {
		return &macState{h: hmac.New(sha256.New, key)}
	}}}
}

// sum computes the MAC of a letter and some numbers into a pooled state.
func (m *macKey) sum(letter byte, fields []uint64) *macState {
	s := m.pool.Get().(*macState)
	s.in[0] = letter
	for i, v := range fields {
		binary.LittleEndian.PutUint64(s.in[1+8*i:], v)
	}
	s.h.Reset()
	s.h.Write(s.in[:1+8*len(fields)])
	s.h.Sum(s.out[:0])
	return s
}

func (m *macKey) make(letter byte, fields ...uint64) []byte {
	s := m.sum(letter, fields)
	mac := append([]byte(nil), s.out[:MACBytes]...)
	m.pool.Put(s)
	return mac
}

func (m *macKey) check(mac []byte, letter byte, fields ...uint64) bool {
	if len(mac) != MACBytes {
		return false
	}
	s := m.sum(letter, fields)
	ok := hmac.Equal(mac, s.out[:MACBytes])
	m.pool.Put(s)
	return ok
}

// Cookie returns what proves that its holder made the file under construction.
// Every replica computes the same.
func (k *Key) Cookie(file eggs.InodeID) []byte {
	return k.ring[0].cookie.make('c', uint64(file))
}

// CheckCookie reports whether cookie is the file's.
func (k *Key) CheckCookie(file eggs.InodeID, cookie []byte) bool {
	for _, s := range k.ring {
		if s.cookie.check(cookie, 'c', uint64(file)) {
			return true
		}
	}
	return false
}

// BlockCert names what a block certificate or proof is about. Each MAC covers
// those fields that its method names.
type BlockCert struct {
	Disk  eggs.DiskID
	Block eggs.BlockID
	Size  uint32 // bytes
	CRC   uint32 // CRC32C of the block
	Mark  uint64 // the lowest block id in any uncertified span of the shard
}

// maxDiskKeys bounds the cache of disks' MAC keys: each takes some hundred
// bytes, and a cluster of more disks only derives some of them again.
const maxDiskKeys = 64 << 10

// Blocks makes and checks MACs about blocks. It is safe for concurrent use.
type Blocks struct {
	key   *Key
	mu    sync.RWMutex
	disks map[eggs.DiskID]*diskKeys
}

// diskKeys holds a disk's MAC key for each key of the ring, current first.
type diskKeys struct{ keys []*macKey }

// Blocks returns the maker and checker of block MACs.
func (k *Key) Blocks() *Blocks { return k.blocks }

func (b *Blocks) of(d eggs.DiskID) *diskKeys {
	b.mu.RLock()
	dk := b.disks[d]
	b.mu.RUnlock()
	if dk != nil {
		return dk
	}
	dk = &diskKeys{}
	for _, s := range b.key.ring {
		dk.keys = append(dk.keys, newMACKey(s.derive("disk/"+d.String(), 32)))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old := b.disks[d]; old != nil {
		return old
	}
	if len(b.disks) >= maxDiskKeys {
		clear(b.disks)
	}
	b.disks[d] = dk
	return dk
}

func (b *Blocks) make(letter byte, disk eggs.DiskID, fields ...uint64) []byte {
	return b.of(disk).keys[0].make(letter, fields...)
}

func (b *Blocks) check(mac []byte, letter byte, disk eggs.DiskID, fields ...uint64) bool {
	for _, k := range b.of(disk).keys {
		if k.check(mac, letter, fields...) {
			return true
		}
	}
	return false
}

// WriteMAC lets its holder write a block: disk, block, size, CRC.
func (b *Blocks) WriteMAC(c BlockCert) []byte {
	return b.make('w', c.Disk, uint64(c.Disk), uint64(c.Block), uint64(c.Size), uint64(c.CRC))
}

// CheckWrite reports whether mac is c's WriteMAC.
func (b *Blocks) CheckWrite(c BlockCert, mac []byte) bool {
	return b.check(mac, 'w', c.Disk,
		uint64(c.Disk), uint64(c.Block), uint64(c.Size), uint64(c.CRC))
}

// ReadMAC lets its holder read a block: disk, block, size.
func (b *Blocks) ReadMAC(c BlockCert) []byte {
	return b.make('r', c.Disk, uint64(c.Disk), uint64(c.Block), uint64(c.Size))
}

// CheckRead reports whether mac is c's ReadMAC.
func (b *Blocks) CheckRead(c BlockCert, mac []byte) bool {
	return b.check(mac, 'r', c.Disk, uint64(c.Disk), uint64(c.Block), uint64(c.Size))
}

// EraseMAC lets its holder erase a block: disk, block, mark.
func (b *Blocks) EraseMAC(c BlockCert) []byte {
	return b.make('e', c.Disk, uint64(c.Disk), uint64(c.Block), c.Mark)
}

// CheckErase reports whether mac is c's EraseMAC.
func (b *Blocks) CheckErase(c BlockCert, mac []byte) bool {
	return b.check(mac, 'e', c.Disk, uint64(c.Disk), uint64(c.Block), c.Mark)
}

// WriteProof is a disk's word that it holds the block durably: disk, block, size, CRC.
func (b *Blocks) WriteProof(c BlockCert) []byte {
	return b.make('W', c.Disk, uint64(c.Disk), uint64(c.Block), uint64(c.Size), uint64(c.CRC))
}

// CheckWriteProof reports whether mac is c's WriteProof.
func (b *Blocks) CheckWriteProof(c BlockCert, mac []byte) bool {
	return b.check(mac, 'W', c.Disk,
		uint64(c.Disk), uint64(c.Block), uint64(c.Size), uint64(c.CRC))
}

// EraseProof is a disk's word that it does not hold the block and never will: disk, block.
func (b *Blocks) EraseProof(c BlockCert) []byte {
	return b.make('E', c.Disk, uint64(c.Disk), uint64(c.Block))
}

// CheckEraseProof reports whether mac is c's EraseProof.
func (b *Blocks) CheckEraseProof(c BlockCert, mac []byte) bool {
	return b.check(mac, 'E', c.Disk, uint64(c.Disk), uint64(c.Block))
}
