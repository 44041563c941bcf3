package auth

import (
	"bufio"
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"eggsfs/eggs"
)

const (
	keyMagic    = "eggsfs-key-1"
	secretBytes = 32       // the strength of every key derived from it
	maxKeyFile  = 64 << 10 // bytes: far above a full ring; a wrong path is not read whole
	maxKeys     = 16       // keys of a ring: every check may try each of them
)

// Key is a cluster's key, or a ring of them while it is being rotated: the
// current one signs, the others only check. It is safe for concurrent use.
type Key struct {
	ring []*secret // current first; never empty

	mu     sync.Mutex
	leaves map[Identity]*leaf // certificates minted by this process
	blocks *Blocks
}

// secret is one key and what is derived from it once.
type secret struct {
	seed   [secretBytes]byte
	id     string
	ca     *authority
	cookie *macKey
}

// NewKey makes a key from the system's randomness, in memory only.
func NewKey() (*Key, error) {
	var seed [secretBytes]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, &eggs.Error{Op: "auth.NewKey", Kind: eggs.IO, Err: err}
	}
	return ringOf([][secretBytes]byte{seed})
}

// Ring returns a key whose current part is k's and that also accepts what the
// others sign.
func (k *Key) Ring(others ...*Key) (*Key, error) {
	var seeds [][secretBytes]byte
	for _, r := range append([]*Key{k}, others...) {
		for _, s := range r.ring {
			seeds = append(seeds, s.seed)
		}
	}
	return ringOf(seeds)
}

func ringOf(seeds [][secretBytes]byte) (*Key, error) {
	k := &Key{leaves: map[Identity]*leaf{}}
	for _, seed := range seeds {
		s := &secret{seed: seed}
		s.id = hex.EncodeToString(s.derive("id", 8))
		s.cookie = newMACKey(s.derive("cookie", 32))
		ca, err := newAuthority(s.derive("ca", 32), s.id)
		if err != nil {
			return nil, &eggs.Error{Op: "auth.Key", Name: s.id, Kind: eggs.Invalid, Err: err}
		}
		s.ca = ca
		k.ring = append(k.ring, s)
	}
	k.blocks = &Blocks{key: k, disks: map[eggs.DiskID]*diskKeys{}}
	return k, nil
}

// derive gives the key for one use. It fails only when more bytes are wanted
// than HKDF can give, and no label wants more than 32.
func (s *secret) derive(label string, n int) []byte {
	b, err := hkdf.Key(sha256.New, s.seed[:], nil, "eggsfs/1/"+label, n)
	if err != nil {
		panic("auth: " + err.Error())
	}
	return b
}

// ID names the current key: 16 hexadecimal digits, not secret.
func (k *Key) ID() string { return k.ring[0].id }

// GossipKeys returns memberlist's keys, the one to encrypt with first.
func (k *Key) GossipKeys() [][]byte {
	var keys [][]byte
	for _, s := range k.ring {
		keys = append(keys, s.derive("gossip", 32))
	}
	return keys
}

// Text is the content of a key file. It is the secret: it goes nowhere else.
func (k *Key) Text() []byte {
	var b bytes.Buffer
	b.WriteString("# EggsFS cluster key. Whoever can read this can do everything to the cluster.\n")
	for _, s := range k.ring {
		fmt.Fprintf(&b, "%s %s %s\n", keyMagic, s.id, base64.StdEncoding.EncodeToString(s.seed[:]))
	}
	return b.Bytes()
}

// ParseKey reads what Text prints. It fails with Kind Corrupt, saying which line.
func ParseKey(text []byte) (*Key, error) {
	bad := func(line int, what string) error {
		return eggs.E("auth.ParseKey", eggs.Corrupt, fmt.Sprintf("line %d: %s", line, what))
	}
	var seeds [][secretBytes]byte
	var ids []string
	var lines []int
	in := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; in.Scan(); n++ {
		line := strings.TrimSpace(in.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if f[0] != keyMagic || len(f) != 3 {
			return nil, bad(n, "not of the form \""+keyMagic+" ID SECRET\"")
		}
		b, err := base64.StdEncoding.DecodeString(f[2])
		if err != nil || len(b) != secretBytes {
			return nil, bad(n, "the secret is not 32 bytes in base64; the line is cut or damaged")
		}
		if len(seeds) == maxKeys {
			return nil, bad(n, fmt.Sprintf("more than %d keys", maxKeys))
		}
		seeds = append(seeds, [secretBytes]byte(b))
		ids = append(ids, f[1])
		lines = append(lines, n)
	}
	if err := in.Err(); err != nil {
		return nil, eggs.E("auth.ParseKey", eggs.Corrupt, "not a key file: "+err.Error())
	}
	if len(seeds) == 0 {
		return nil, eggs.E("auth.ParseKey", eggs.Corrupt, "there is no key in it")
	}
	k, err := ringOf(seeds)
	if err != nil {
		return nil, err
	}
	for i, s := range k.ring {
		if s.id != ids[i] {
			return nil, bad(lines[i], "the secret does not belong to id "+ids[i]+"; it is damaged")
		}
	}
	return k, nil
}

// LoadKey reads a key file. It fails with Kind NotExist when there is none,
// Permission when this user may not read it or too many others may, and Corrupt
// when it is no key file or is damaged.
func LoadKey(path string) (*Key, error) {
	fail := func(kind eggs.Kind, text string) error {
		return &eggs.Error{Op: "auth.LoadKey", Name: path, Kind: kind, Err: errors.New(text)}
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fail(eggs.NotExist,
			"there is no key file; copy it from another node, or name it with --key-file")
	case errors.Is(err, fs.ErrPermission):
		return nil, fail(eggs.Permission, "this user may not read the key file")
	case err != nil:
		return nil, &eggs.Error{Op: "auth.LoadKey", Name: path, Kind: eggs.IO, Err: err}
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, &eggs.Error{Op: "auth.LoadKey", Name: path, Kind: eggs.IO, Err: err}
	}
	if !st.Mode().IsRegular() || st.Size() > maxKeyFile {
		return nil, fail(eggs.Corrupt, "this is not a key file")
	}
	if st.Mode().Perm()&0o027 != 0 {
		return nil, fail(eggs.Permission, fmt.Sprintf("mode %04o lets other users use or change "+
			"the cluster's key; run: chmod 600 %s", st.Mode().Perm(), path))
	}
	text := make([]byte, st.Size())
	if n, err := f.ReadAt(text, 0); n != len(text) {
		return nil, &eggs.Error{Op: "auth.LoadKey", Name: path, Kind: eggs.IO, Err: err}
	}
	k, err := ParseKey(text)
	if err != nil {
		return nil, &eggs.Error{Op: "auth.LoadKey", Name: path, Err: err}
	}
	return k, nil
}

// CreateKey makes a key and its file, mode 0600, durable before it returns. It fails with
// Kind Exist when the file is there already.
func CreateKey(path string) (*Key, error) {
	fail := func(kind eggs.Kind, err error) (*Key, error) {
		return nil, &eggs.Error{Op: "auth.CreateKey", Name: path, Kind: kind, Err: err}
	}
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fail(eggs.Exist, err)
	case errors.Is(err, fs.ErrPermission):
		return fail(eggs.Permission, err)
	case err != nil:
		return fail(eggs.IO, err)
	}
	_, err = f.Write(k.Text())
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fail(eggs.IO, errors.Join(err, os.Remove(path)))
	}
	return k, nil
}

// syncDir makes a directory's entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
