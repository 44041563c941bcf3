package raftshard

import (
	"bytes"
	"fmt"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Limits of what a session holds. They bound what an entry does that ends one.
const (
	// MaxLeased is the unused ids that a session may hold. More wastes ids, which are
	// plenty, and keys; less makes a busy writer ask more often.
	MaxLeased = 4096
	// MaxReserved is the names that a session may reserve: O_EXCL creates under way.
	MaxReserved = 4096
)

// leaseIDs hands out file ids that Construct will take from this session.
func (a *apply) leaseIDs(v *wire.LeaseIds) (*wire.Result, error) {
	if v.Count == 0 || v.Count > MaxLeased {
		return nil, fail(eggs.Invalid, 0, "", fmt.Sprintf("lease 1 to %d ids", MaxLeased))
	}
	prefix := key1(tableLease, a.req.Session)
	held := uint32(0)
	a.tx.Scan(prefix, after(prefix), false, func(_, _ []byte) bool { held++; return true })
	if held+v.Count > MaxLeased {
		return nil, fail(eggs.TooLarge, 0, "", fmt.Sprintf(
			"the session has %d unused ids; the limit is %d", held, MaxLeased))
	}
	ids := make([]uint64, v.Count)
	for i := range ids {
		id := a.nextID(eggs.KindFile)
		ids[i] = uint64(id)
		a.tx.Set(key2(tableLease, a.req.Session, id), nil)
	}
	return &wire.Result{Result: &wire.Result_IdsLeased{IdsLeased: &wire.IdsLeased{Ids: ids}}}, nil
}

// takeLeased uses up a leased id.
func (a *apply) takeLeased(id eggs.InodeID) error {
	k := key2(tableLease, a.req.Session, id)
	if _, ok := a.tx.Get(k); !ok || id.Kind() != eggs.KindFile || id.Shard() != a.m.shard {
		return fail(eggs.Conflict, id, "", "not an unused id of a lease of this session")
	}
	a.tx.Delete(k)
	return nil
}

func (a *apply) endLeases(session uint64) {
	for _, k := range a.keys(key1(tableLease, session)) {
		a.tx.Delete(k)
	}
}

// keys returns the keys that begin with prefix.
func (a *apply) keys(prefix []byte) (keys [][]byte) {
	a.tx.Scan(prefix, after(prefix), false, func(k, _ []byte) bool {
		keys = append(keys, bytes.Clone(k))
		return true
	})
	return keys
}

// reserve decides an O_EXCL create at open.
func (a *apply) reserve(v *wire.Reserve) (*wire.Result, error) {
	p, err := a.place(v.Dir, v.Name)
	if err != nil {
		return nil, err
	}
	if e := a.edge(&p); e != nil {
		if err := a.unlocked(&p, e); err != nil {
			return nil, err
		}
		return nil, p.fail(eggs.Exist, "")
	}
	r, mine := a.reservation(&p)
	if r != nil && !mine {
		return nil, p.fail(eggs.Exist, "the name is reserved")
	}
	if !mine {
		held := len(a.keys(key1(tableReservedBy, a.req.Session)))
		if held >= MaxReserved {
			return nil, p.fail(eggs.TooLarge, fmt.Sprintf(
				"the session has %d names reserved; the limit is %d", held, MaxReserved))
		}
		a.dropReservation(&p) // another's that is over
	}
	a.putReservation(&p, !mine)
	return nil, nil
}

func (a *apply) putReservation(p *place, fresh bool) {
	if fresh {
		a.state.reserved++
	}
	a.tx.Set(nameKey(tableReserved, p.dir, p.hash, p.name), encode(&ReservationRecord{
		Session: a.req.Session, Deadline: int64(a.now + ConstructionLife),
	}))
	a.tx.Set(reservedByKey(a.req.Session, p.dir, p.hash, p.name), nil)
}

// release gives a reserved name up. One that is not this session's is none of its business.
func (a *apply) release(v *wire.Release) (*wire.Result, error) {
	p := place{dir: eggs.InodeID(v.Dir), name: v.Name, hash: eggs.NameHash(v.Name)}
	if _, mine := a.reservation(&p); mine {
		a.dropReservation(&p)
	}
	return nil, nil
}

// reservation returns the live reservation of a name and whether it is this session's.
func (a *apply) reservation(p *place) (r *ReservationRecord, mine bool) {
	if a.state.reserved == 0 {
		return nil, false
	}
	r, ok := load[ReservationRecord](a.tx, nameKey(tableReserved, p.dir, p.hash, p.name))
	if !ok {
		return nil, false
	}
	mine = r.Session == a.req.Session && a.req.Session != 0
	if !mine && (eggs.Time(r.Deadline) <= a.now || !sessions.Live(a.tx, r.Session, a.now)) {
		return nil, false
	}
	return r, mine
}

// taken fails with Exist when another session has reserved the name.
func (a *apply) taken(p *place) error {
	if r, mine := a.reservation(p); r != nil && !mine {
		return p.fail(eggs.Exist, "the name is reserved")
	}
	return nil
}

// dropReservation removes whatever reservation a name has.
func (a *apply) dropReservation(p *place) {
	k := nameKey(tableReserved, p.dir, p.hash, p.name)
	if r, ok := load[ReservationRecord](a.tx, k); ok {
		a.state.reserved--
		a.tx.Delete(k)
		a.tx.Delete(reservedByKey(r.Session, p.dir, p.hash, p.name))
	}
}

func (a *apply) endReservations(session uint64) {
	for _, k := range a.keys(key1(tableReservedBy, session)) {
		a.state.reserved--
		a.tx.Delete(k)
		a.tx.Delete(append([]byte{tableReserved}, k[9:]...))
	}
}
