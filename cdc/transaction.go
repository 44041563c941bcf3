package cdc

import (
	"sync"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// requestKey names a client's request.
type requestKey struct{ session, sequence uint64 }

// transaction is one unfinished transaction, as every replica knows it from the
// log, and the place where those wait who want its answer.
type transaction struct {
	id  uint64
	rec *wire.CdcTransaction // never changed

	once     sync.Once
	decided  chan struct{} // closed when reply is set
	reply    *wire.CdcReply
	finished bool // its done is applied; guarded by Machine.mu
}

func newTransaction(id uint64, rec *wire.CdcTransaction) *transaction {
	return &transaction{id: id, rec: rec, decided: make(chan struct{})}
}

// decide gives the answer to those who wait. The first answer stays; a later one
// can only repeat it, see "Replay" in doc.go.
func (t *transaction) decide(reply *wire.CdcReply) {
	t.once.Do(func() {
		t.reply = reply
		close(t.decided)
	})
}

func (t *transaction) request() requestKey {
	return requestKey{t.rec.Request.Session, t.rec.Request.Sequence}
}

// touched is something that one transaction at a time may work on: a name in a
// directory, or, when the name is empty, a directory's inode.
type touched struct {
	dir  uint64
	name string
}

// touches lists what the transaction works on, each once.
func (t *transaction) touches() []touched { return touches(t.rec.Request, t.rec.Id) }

// touches lists what a request works on; id is the directory that mkdir makes.
func touches(r *wire.CdcRequest, id uint64) []touched {
	switch op := r.GetOp().(type) {
	case *wire.CdcRequest_Mkdir:
		own := []touched{{op.Mkdir.Dir, op.Mkdir.Name}}
		if id != 0 {
			own = append(own, touched{id, ""})
		}
		return own
	case *wire.CdcRequest_Rmdir:
		own := []touched{{op.Rmdir.Dir, op.Rmdir.Name}}
		if op.Rmdir.Target != 0 {
			own = append(own, touched{op.Rmdir.Target, ""})
		}
		return own
	case *wire.CdcRequest_RenameFile:
		from := touched{op.RenameFile.FromDir, op.RenameFile.From}
		return []touched{from, {op.RenameFile.ToDir, op.RenameFile.To}}
	case *wire.CdcRequest_HardUnlink:
		return []touched{{op.HardUnlink.Dir, op.HardUnlink.Name}}
	}
	return nil
}

// isTransaction reports whether the request needs steps in shards.
func isTransaction(r *wire.CdcRequest) bool { return len(touches(r, 0)) > 0 }

// refusal is an error that a client gets in a reply.
func refusal(op string, kind eggs.Kind, dir uint64, name, text string) *wire.Error {
	return &wire.Error{Op: op, Kind: uint32(kind), Inode: dir, Name: name, Text: text}
}

func refused(op string, kind eggs.Kind, dir uint64, name, text string) *wire.CdcReply {
	return &wire.CdcReply{Error: refusal(op, kind, dir, name, text)}
}
