package eggs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
)

// Shards is the number of metadata shards. It is fixed for the life of a cluster.
const Shards = 256

// ShardID names one of the metadata shards.
type ShardID uint8

// GroupID names a Raft group: 0 to 255 are the shards, CDCGroup is the coordinator.
type GroupID uint16

// CDCGroup is the Raft group of the cross-directory coordinator.
const CDCGroup GroupID = Shards

// Groups is the number of Raft groups of a cluster.
const Groups = Shards + 1

// Group returns the Raft group that replicates the shard.
func (s ShardID) Group() GroupID { return GroupID(s) }

// String prints "cdc" or the shard's number.
func (g GroupID) String() string {
	if g == CDCGroup {
		return "cdc"
	}
	return strconv.Itoa(int(g))
}

// InodeKind says what an inode is. It is part of the id.
type InodeKind uint8

// The kinds of inode. The numbers are frozen: they are in every id.
const (
	KindNone      InodeKind = 0
	KindDirectory InodeKind = 1
	KindFile      InodeKind = 2
	KindSymlink   InodeKind = 3
)

// String returns "directory", "file", "symlink" or "none".
func (k InodeKind) String() string {
	switch k {
	case KindDirectory:
		return "directory"
	case KindFile:
		return "file"
	case KindSymlink:
		return "symlink"
	}
	return "none"
}

const (
	kindShift  = 61
	numberMask = 1<<kindShift - 1
)

// InodeID names an inode for ever. See the package comment for its layout.
type InodeID uint64

// Root is the directory that owns everything and is owned by nothing.
const Root InodeID = InodeID(KindDirectory)<<kindShift | 1

// MakeInodeID joins a kind and a number below 2^61.
func MakeInodeID(k InodeKind, number uint64) InodeID {
	return InodeID(uint64(k)<<kindShift | number&numberMask)
}

// Kind returns what the inode is.
func (id InodeID) Kind() InodeKind { return InodeKind(id >> kindShift) }

// Number returns the id without its kind.
func (id InodeID) Number() uint64 { return uint64(id) & numberMask }

// IsDir reports whether the id is a directory's.
func (id InodeID) IsDir() bool { return id.Kind() == KindDirectory }

// Valid reports whether the id has one of the three kinds and a number.
func (id InodeID) Valid() bool {
	return id.Kind() >= KindDirectory && id.Kind() <= KindSymlink && id.Number() != 0
}

// Shard returns the shard that keeps the inode.
func (id InodeID) Shard() ShardID { return ShardOf(uint64(id)) }

// String prints the id as 16 hexadecimal digits.
func (id InodeID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ShardOf is the routing rule: the top byte of a 64-bit mix (the finalizer of
// MurmurHash3 as varied by Stafford, "Mix13") of the id. It is frozen.
func ShardOf(id uint64) ShardID {
	id ^= id >> 30
	id *= 0xbf58476d1ce4e5b9
	id ^= id >> 27
	id *= 0x94d049bb133111eb
	id ^= id >> 31
	return ShardID(id >> 56)
}

// NameHash orders the entries of a directory: the first 8 bytes of the name's
// SHA-256, little end first, without the top bit, and never below FirstNameHash. A hash that
// nobody can steer keeps a directory's pages even, and an offset of the hash
// is a cursor that stays good while entries come and go. It is frozen.
func NameHash(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	h := binary.LittleEndian.Uint64(sum[:]) &^ (1 << 63)
	if h < FirstNameHash {
		h += FirstNameHash
	}
	return h
}

// FirstNameHash is the least value of NameHash; lower cursors are free for "."
// and "..".
const FirstNameHash = 16

// BlockID names a block for ever; see the package comment for its layout.
type BlockID uint64

// MakeBlockID joins a shard and its counter, which must be below 2^56.
func MakeBlockID(s ShardID, counter uint64) BlockID { return BlockID(counter<<8 | uint64(s)) }

// Shard returns the shard that handed the id out.
func (b BlockID) Shard() ShardID { return ShardID(b) }

// String prints the id as 16 hexadecimal digits.
func (b BlockID) String() string { return fmt.Sprintf("%016x", uint64(b)) }

// DiskID names a block service, which is one disk. It is random and kept on the disk.
type DiskID uint64

// String prints the id as 16 hexadecimal digits.
func (d DiskID) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// NodeID names a server's data folder. It is random and made once.
type NodeID uint64

// String prints the id as 16 hexadecimal digits.
func (n NodeID) String() string { return fmt.Sprintf("%016x", uint64(n)) }

// ParseNodeID reads what NodeID.String prints.
func ParseNodeID(s string) (NodeID, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || n == 0 || len(s) != 16 {
		return 0, &Error{Op: "eggs.ParseNodeID", Name: s, Kind: Invalid}
	}
	return NodeID(n), nil
}

// ClusterID names a cluster. It is random and made by the first node.
type ClusterID uint64

// String prints the id as 16 hexadecimal digits.
func (c ClusterID) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// Limits of names and of the values that hang on an inode.
const (
	MaxName       = 255  // bytes of an entry's name, as POSIX systems have it
	MaxSymlink    = 4095 // bytes of a symlink's target, PATH_MAX less the NUL
	MaxXattrName  = 255  // bytes, as Linux has it
	MaxXattrBytes = 4096 // bytes of all names and values of one inode: they live in the log
)

// CheckName fails with Kind NameTooLong or Invalid unless name may be an
// entry's: 1 to MaxName bytes, no '/', no NUL, not "." or "..".
func CheckName(name string) error {
	switch {
	case len(name) > MaxName:
		return &Error{Op: "eggs.CheckName", Name: name[:32] + "…", Kind: NameTooLong}
	case name == "" || name == "." || name == "..":
		return &Error{Op: "eggs.CheckName", Name: name, Kind: Invalid}
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return &Error{Op: "eggs.CheckName", Name: name, Kind: Invalid}
		}
	}
	return nil
}
