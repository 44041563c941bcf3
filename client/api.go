package client

import (
	"context"
	"io"
	"log/slog"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Config says which cluster, with which key, within which limits. Zero values mean the defaults.
type Config struct {
	Addrs    []string      // HOST:PORT of any nodes
	KeyFile  string        // the cluster's key
	Logger   *slog.Logger  // default: discard
	Timeout  time.Duration // how long one call waits through failovers; default 30 s
	BlockTLS string        // auto, on or off; default auto: off to loopback addresses
}

// Attr is what stat shows. For directories Size is 0 and Owner the parent.
type Attr struct {
	ID        eggs.InodeID
	Mode      uint32 // permission bits, 07777
	UID, GID  uint32
	Size      int64
	Mtime     eggs.Time
	Atime     eggs.Time
	Ctime     eggs.Time
	Owner     eggs.InodeID
	Symlink   string
	Xattrs    map[string][]byte
	Policies  *wire.Policies // directory: own tags, nil ones inherited
	Transient bool
	Removed   bool
}

// Entry is one name of a directory.
type Entry struct {
	Name   string
	Target eggs.InodeID
	Time   eggs.Time // when the edge was made
	Cursor uint64    // eggs.NameHash(Name)
	Attr   *Attr     // when asked for
}

// SetAttr says which attributes to change: nil is as it is.
type SetAttr struct {
	Mode, UID, GID     *uint32
	Mtime, Atime       *eggs.Time
	MtimeNow, AtimeNow bool
}

// CreateOptions are the attributes of a new file or directory. Zero Mtime is now.
type CreateOptions struct {
	Mode, UID, GID uint32
	Mtime          eggs.Time
	Exclusive      bool // O_EXCL, decided now, cluster-wide: Kind Exist
}

// TransientFile is a file under construction or being destroyed.
type TransientFile struct {
	ID       eggs.InodeID
	Deadline eggs.Time
	Dir      eggs.InodeID
	Name     string
	Size     int64
	Expired  bool
}

// API is what the doors (fuse, cmd/eggs, gateway, upkeep) use of a *Client;
// *Client implements it. All methods are safe for concurrent use, wait through
// a failover up to Config.Timeout or ctx, and fail with an *eggs.Error.
type API interface {
	// Lookup finds a current entry, with the attributes of its target. Kind NotExist.
	Lookup(ctx context.Context, dir eggs.InodeID, name string) (Entry, error)
	// Stat returns attributes. Kind NotExist.
	Stat(ctx context.Context, id eggs.InodeID) (Attr, error)
	// StatMany asks each shard once; an absent inode has ID 0 in the answer.
	StatMany(ctx context.Context, ids []eggs.InodeID) ([]Attr, error)
	// ReadDir lists entries whose Cursor is greater than after, in increasing
	// Cursor, about limit of them (never splitting equal cursors), with attributes
	// when attrs is set. It also returns the directory's owner. end: no more.
	ReadDir(ctx context.Context, dir eggs.InodeID, after uint64, limit int, attrs bool) (
		entries []Entry, owner eggs.InodeID, end bool, err error)

	Mkdir(ctx context.Context, dir eggs.InodeID, name string, o CreateOptions) (Attr, error)
	Rmdir(ctx context.Context, dir eggs.InodeID, name string) error
	// Unlink removes a file or symlink; target 0 means whatever it is.
	Unlink(ctx context.Context, dir eggs.InodeID, name string, target eggs.InodeID) error
	Symlink(ctx context.Context, dir eggs.InodeID, name, target string, o CreateOptions) (Attr, error)
	// Rename renames or replaces; a directory to another parent is Kind CrossDir.
	Rename(ctx context.Context, fromDir eggs.InodeID, from string, toDir eggs.InodeID, to string, noReplace bool) error
	SetAttr(ctx context.Context, id eggs.InodeID, s SetAttr) (Attr, error)
	SetXattr(ctx context.Context, id eggs.InodeID, name string, value []byte, create, replace bool) error
	RemoveXattr(ctx context.Context, id eggs.InodeID, name string) error
	SetPolicy(ctx context.Context, dir eggs.InodeID, p *wire.Policies, clear uint32) error
	// Policies returns what is in force for dir, walking its ancestors; cached for a few seconds.
	Policies(ctx context.Context, dir eggs.InodeID) (eggs.Policies, error)

	// Create starts a file that gets its name at Writer.Close. No request is
	// sent for a small file until then, but for a lease and Exclusive.
	Create(ctx context.Context, dir eggs.InodeID, name string, o CreateOptions) (Writer, error)
	// Prepare has what the first file in dir will need fetched in the background, as
	// best it can: a session of its shard, ids, policies.
	Prepare(dir eggs.InodeID)
	// Open opens a finished file for reading. It never returns bytes whose checksum is wrong.
	Open(ctx context.Context, id eggs.InodeID) (Reader, error)

	// Walk finds the inode of an absolute path ("/a/b"), not following a last symlink.
	Walk(ctx context.Context, path string) (Attr, error)
	// StatFS sums the disks: bytes as the files' contents see them are raw / expansion.
	StatFS(ctx context.Context) (StatFS, error)

	Close() error
}

// StatFS is the cluster's room, in bytes of raw disk, and the share that data
// takes of it under the root's policy for large files.
type StatFS struct {
	Capacity, Free int64   // raw bytes on writable disks
	Expansion      float64 // raw bytes a byte of content, such as 1.5
}

// Writer is a file under construction. It is written once, front to back, as
// far as the cluster is concerned: bytes that were sent cannot change (Kind ReadOnly; the
// caller keeps what it may want to change in memory or starts anew).
// Methods may be called concurrently, but WriteAt only at increasing offsets.
type Writer interface {
	// ID is the file's inode, known from the first; it becomes visible at Close.
	ID() eggs.InodeID
	// Write appends. It returns when the bytes are in the span's buffer;
	// an error of an earlier span is returned by the next Write or by Close.
	Write(p []byte) (int, error)
	// Size is the bytes appended so far.
	Size() int64
	// ReadAt reads back what was appended, from memory or from blocks.
	ReadAt(p []byte, off int64) (int, error)
	// SetAttr changes what the file will have at Close.
	SetAttr(s SetAttr)
	// SetXattrs says which extended attributes the file will have at Close, all of them.
	SetXattrs(x map[string][]byte)
	// Attr is what the file would be if closed now; after Close, what it was then.
	Attr() Attr
	// Rename changes the name that Close will give, in the same directory.
	Rename(name string)
	// Close makes the file durable and visible under its name, whole. The id of a
	// replaced file is returned. After an error the file does not exist, unless Kind Indeterminate.
	Close(ctx context.Context) (replaced eggs.InodeID, err error)
	// Abort gives the file up. It may be called after a failed Close.
	Abort()
}

// Reader reads a finished file. ReadAt follows io.ReaderAt and may be called
// concurrently; sequential callers get read-ahead.
type Reader interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// Collecting and looking: what upkeep and the operator's command use.
type Operator interface {
	API
	// ListTransient lists a shard's transient files with id > after.
	ListTransient(ctx context.Context, shard eggs.ShardID, after eggs.InodeID, limit int, due bool) (
		files []TransientFile, now eggs.Time, end bool, err error)
	// Shard sends verbs in this client's session; the Collector and tests use it.
	Shard(ctx context.Context, shard eggs.ShardID, verbs ...*wire.Verb) (*wire.ShardReply, error)
	// Query asks a shard.
	Query(ctx context.Context, q *wire.ShardQuery) (*wire.ShardAnswer, error)
	// CDC sends one operation in this client's session with the coordinator.
	CDC(ctx context.Context, r *wire.CdcRequest) (*wire.CdcReply, error)
	QueryCDC(ctx context.Context, q *wire.CdcQuery) (*wire.CdcAnswer, error)
	// EraseBlock erases one block and returns the proof.
	EraseBlock(ctx context.Context, c *wire.Certificate) (*wire.Proof, error)
	// ListBlocks lists the blocks of a disk.
	ListBlocks(ctx context.Context, d eggs.DiskID, after eggs.BlockID, limit int) ([]*wire.BlockInfo, bool, error)
	// CheckBlock has a disk verify one block. Kind Corrupt, NotExist.
	CheckBlock(ctx context.Context, c *wire.Certificate) error
	// BlockSpans, RecoverBlocks and ReplaceBlocks are what repair is made of; see Client.
	BlockSpans(ctx context.Context, id eggs.InodeID, offset int64) (spans []*BlockSpan, next int64, err error)
	RecoverBlocks(ctx context.Context, b *BlockSpan, want []int) (*Recovered, error)
	ReplaceBlocks(ctx context.Context, b *BlockSpan, blocks map[int][]byte, avoid []eggs.DiskID) error
	// Routes is the picture that requests are routed by.
	Routes() *wire.Routes
	// NodeStatus asks one node.
	NodeStatus(ctx context.Context, node eggs.NodeID) (*wire.NodeStatus, error)
	// ClusterStatus asks all nodes; one that does not answer is a Problem in words.
	ClusterStatus(ctx context.Context) (*ClusterStatus, error)
}

// ClusterStatus is every node's word, put together.
type ClusterStatus struct {
	Cluster  eggs.ClusterID
	Nodes    []*wire.NodeStatus
	Routes   *wire.Routes
	Silent   []eggs.NodeID // did not answer
	Problems []*wire.Problem
	Health   string // healthy, degraded or unavailable
}
