package disk

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"eggsfs/eggs"
)

const (
	formatVersion = 1
	maxIdentity   = 4096 // bytes of the identity file: it has six short lines
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Identity is what a disk says of itself.
type Identity struct {
	Disk    eggs.DiskID
	Cluster eggs.ClusterID
	Node    eggs.NodeID // that formatted it
	Made    time.Time
}

// text is the identity file. See the package comment.
func (id Identity) text() []byte {
	s := fmt.Sprintf("eggsfs-disk %d\ndisk %s\ncluster %s\nnode %s\nmade %s\n", formatVersion,
		id.Disk, id.Cluster, id.Node, id.Made.UTC().Format(time.RFC3339))
	return fmt.Appendf([]byte(s), "crc %08x\n", crc32.Checksum([]byte(s), castagnoli))
}

func parseIdentity(b []byte) (Identity, error) {
	var id Identity
	var version, sum uint32
	var made string
	s := string(b)
	if n, _ := fmt.Sscanf(s, "eggsfs-disk %d\n", &version); n == 1 && version != formatVersion {
		return id, eggs.E("", eggs.Version, fmt.Sprintf(
			"disk format %d; this program reads %d", version, formatVersion))
	}
	n, err := fmt.Sscanf(s, "eggsfs-disk %d\ndisk %x\ncluster %x\nnode %x\nmade %s\ncrc %x\n",
		&version, (*uint64)(&id.Disk), (*uint64)(&id.Cluster), (*uint64)(&id.Node), &made, &sum)
	at := strings.LastIndex(s, "crc ")
	if err != nil || n != 6 || at < 0 || id.Disk == 0 {
		return id, eggs.E("", eggs.Corrupt, "this is not a disk's identity")
	}
	if found := crc32.Checksum(b[:at], castagnoli); found != sum {
		return id, eggs.E("", eggs.Corrupt, fmt.Sprintf(
			"checksum %08x wanted, %08x found", sum, found))
	}
	id.Made, err = time.Parse(time.RFC3339, made)
	if err != nil {
		return id, &eggs.Error{Kind: eggs.Corrupt, Err: err}
	}
	return id, nil
}

func (f *Folder) readIdentity() (Identity, error) {
	b, err := f.ReadFile(identityName, maxIdentity)
	if err != nil {
		return Identity{}, err
	}
	id, err := parseIdentity(b)
	if err != nil {
		return id, &eggs.Error{Op: "disk.Identity", Name: f.at(identityName), Err: err}
	}
	return id, nil
}

// format gives an empty folder an identity.
func (f *Folder) format(o Options) (Identity, error) {
	const op = "disk.Open"
	refuse := func(kind eggs.Kind, text string) (Identity, error) {
		return Identity{}, &eggs.Error{Op: op, Name: f.path, Kind: kind, Err: errors.New(text)}
	}
	empty, err := f.empty()
	switch {
	case err != nil:
		return Identity{}, err
	case o.Want != 0 && empty:
		return refuse(eggs.NotExist, fmt.Sprintf(
			"disk %s should be here, but the folder is empty: unmounted, swapped or wiped?", o.Want))
	case o.Want != 0:
		return refuse(eggs.NotExist, fmt.Sprintf(
			"disk %s should be here, but the folder has no identity", o.Want))
	case !empty:
		return refuse(eggs.Conflict, "the folder is neither empty nor a disk of EggsFS")
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return refuse(eggs.IO, err.Error())
	}
	id := Identity{
		Disk:    eggs.DiskID(binary.LittleEndian.Uint64(random[:]) | 1),
		Cluster: o.Cluster, Node: o.Node, Made: time.Now().Truncate(time.Second),
	}
	if err := f.emptyTemps(); err != nil {
		return Identity{}, err
	}
	return id, f.WriteFile(identityName, id.text())
}

// mustBe fails unless the disk is the one that was asked for.
func (id Identity) mustBe(o Options) error {
	switch {
	case o.Want != 0 && id.Disk != o.Want:
		return eggs.E("", eggs.Conflict, fmt.Sprintf(
			"disk %s should be here, but it is disk %s", o.Want, id.Disk))
	case o.Cluster != 0 && id.Cluster != 0 && id.Cluster != o.Cluster:
		return eggs.E("", eggs.WrongCluster, fmt.Sprintf(
			"disk %s belongs to cluster %s, not to %s", id.Disk, id.Cluster, o.Cluster))
	}
	return nil
}
