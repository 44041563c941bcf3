package node

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"eggsfs/eggs"
	"eggsfs/internal/disk"
)

const identityFormat = 1

// identity is node.json: who this data folder is. It is written whole, to a
// temporary name, synced and renamed.
type identity struct {
	Format    int            `json:"format"`
	Cluster   string         `json:"cluster"` // 16 hexadecimal digits; "" until a cluster was joined
	Node      string         `json:"node"`
	Listen    string         `json:"listen"`
	Advertise string         `json:"advertise,omitempty"`
	HTTP      string         `json:"http"`
	KeyFile   string         `json:"key_file"`
	Domain    string         `json:"failure_domain,omitempty"`
	Roles     uint32         `json:"roles"`
	Replicas  int            `json:"replicas"`
	BlockTLS  string         `json:"block_tls"`
	First     bool           `json:"first"` // made the cluster
	Disks     []diskIdentity `json:"disks"`
	Peers     []string       `json:"peers"`            // addresses last seen
	Groups    []int          `json:"groups"`           // replicas held here
	Hosted    map[int]uint64 `json:"hosted,omitempty"` // version of the facts that last had a group hosted here
	LogExists bool           `json:"log_exists"`       // raft.log was made; without it the votes are lost
}

type diskIdentity struct {
	Path  string `json:"path"`
	Class uint8  `json:"class"`
	ID    string `json:"id"` // "" until formatted
}

func identityPath(data string) string { return filepath.Join(data, "node.json") }

// loadIdentity reads node.json; nil without error when the folder is new.
func loadIdentity(data string) (*identity, error) {
	fail := func(kind eggs.Kind, format string, a ...any) error {
		return &eggs.Error{
			Op: "node.Identity", Name: identityPath(data), Kind: kind, Err: fmt.Errorf(format, a...),
		}
	}
	b, err := os.ReadFile(identityPath(data))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refuseOrphan(data)
	}
	if err != nil {
		return nil, fail(eggs.IO, "%w", err)
	}
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return nil, fail(eggs.Corrupt, "this file says who the node is and cannot be read (%v); "+
			"restore it, or start with an empty --data and --join as a new node", err)
	}
	if id.Format != identityFormat {
		return nil, fail(eggs.Version, "format %d, this binary knows %d", id.Format, identityFormat)
	}
	if _, err := eggs.ParseNodeID(id.Node); err != nil {
		return nil, fail(eggs.Corrupt, "node id %q", id.Node)
	}
	return &id, nil
}

// refuseOrphan fails when a folder without node.json holds a node's log or
// state: its identity is lost, and with it the right to vote.
func refuseOrphan(data string) error {
	for _, name := range []string{"raft.log", "state"} {
		if _, err := os.Stat(filepath.Join(data, name)); err == nil {
			return &eggs.Error{
				Op: "node.Identity", Name: data, Kind: eggs.Corrupt,
				Err: fmt.Errorf("%s is there but node.json is not: restore node.json, "+
					"or start with an empty --data and --join as a new node", name),
			}
		}
	}
	return nil
}

func (id *identity) save(data string) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(identityPath(data), append(b, '\n'), 0o600)
}

func (id *identity) node() eggs.NodeID {
	n, _ := eggs.ParseNodeID(id.Node)
	return n
}

func (id *identity) cluster() eggs.ClusterID {
	n, _ := eggs.ParseNodeID(id.Cluster)
	return eggs.ClusterID(n)
}

func (id *identity) advertised() string {
	if id.Advertise != "" {
		return id.Advertise
	}
	return id.Listen
}

// writeDurably replaces a file so that after a crash it is the old or the new one.
func writeDurably(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err == nil {
		_, err = f.Write(b)
		if err == nil {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return &eggs.Error{Op: "node.Write", Name: path, Kind: eggs.IO, Err: err}
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// newID draws a random id that is not 0.
func newID() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, err
		}
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}

// lockData takes the data folder for this process, or says who has it.
func lockData(data string) (*os.File, error) {
	fail := func(kind eggs.Kind, err error) error {
		return &eggs.Error{Op: "node.Lock", Name: data, Kind: kind, Err: err}
	}
	if err := disk.MkdirAll(data, 0o700); err != nil {
		return nil, fail(eggs.KindOf(err), err)
	}
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fail(eggs.IO, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 16)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, fail(eggs.InUse,
			fmt.Errorf("another eggsnode (pid %s) uses this data folder", pid[:n]))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, fail(eggs.IO, err)
	}
	return f, nil
}
