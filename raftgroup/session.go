package raftgroup

import (
	"encoding/binary"

	"eggsfs/eggs"
)

// Sessions is the table by which a group answers every request exactly once.
// It lives in the machine's own keys, all of which begin with Prefix:
//
//	Prefix 's' session(8)              → client(8) last(8) lowest(8) highest(8)
//	Prefix 'a' session(8) sequence(8)  → the answer given
//	Prefix 'd' due(8) session(8)       → nothing: when to look whether it ended
//	Prefix 'n'                         → sessions opened so far(8)
//
// Numbers are big end first, so that keys sort as they count. A session ends
// SessionLife of the group's time after its last request. The due key is written
// when a session opens and moved only by Expire, so a request costs no more
// than its record and its answer.
//
// Sequences start at 1. A client keeps those not yet answered within SessionWindow
// of each other, which is also what bounds the answers of a session.
type Sessions struct{ Prefix byte }

// Limits of sessions.
const (
	// SessionLife is how long a silent session lasts, in nanoseconds. Longer
	// keeps the ids and names of dead clients longer; shorter makes a client
	// that was cut off lose requests whose outcome it could still have learnt.
	SessionLife eggs.Time = 3600 * 1e9
	// SessionWindow bounds the answers kept for a session: a sequence must be less than this
	// above the lowest one not answered. It is far above what a client has under way.
	SessionWindow = 4096
)

// SessionState is what Begin found.
type SessionState uint8

// The states of a request.
const (
	SessionNew       SessionState = iota // to be executed now, and then given to Answer
	SessionAnswered                      // executed before: this was the answer
	SessionUnknown                       // no such session, or it ended: not to be executed
	SessionForgotten                     // the client has said that it knows the answer
	SessionFull                          // SessionWindow or more above the lowest not answered
)

type sessionRecord struct {
	client  uint64
	last    eggs.Time
	lowest  uint64 // not answered
	highest uint64 // begun: above it there is no answer to look for
}

// Open makes a session and returns its id, which is never 0.
func (s Sessions) Open(tx Tx, now eggs.Time, client uint64) uint64 {
	counter := s.key('n')
	var n uint64
	if v, ok := tx.Get(counter); ok && len(v) == 8 {
		n = binary.BigEndian.Uint64(v)
	}
	for {
		n++
		id := mix(client ^ n*0x9e3779b97f4a7c15)
		if id == 0 || id == 1<<64-1 {
			continue // null, and the one whose keys would have no upper bound
		}
		if _, taken := s.record(tx, id); taken {
			continue
		}
		tx.Set(counter, binary.BigEndian.AppendUint64(nil, n))
		s.put(tx, id, sessionRecord{client: client, last: now, lowest: 1})
		tx.Set(s.key('d', uint64(now+SessionLife), id), nil)
		return id
	}
}

// Begin is the first thing that apply does with a request of a session. It
// keeps the session alive and drops the answers below lowest.
func (s Sessions) Begin(
	tx Tx, session, sequence, lowest uint64, now eggs.Time,
) (answer []byte, state SessionState) {
	r, ok := s.record(tx, session)
	if !ok || r.last+SessionLife <= now {
		return nil, SessionUnknown
	}
	r.last = now
	if lowest > sequence {
		lowest = sequence // it is not answered itself
	}
	if lowest > r.lowest {
		end := min(lowest, r.lowest+SessionWindow) // none can be above
		for q := r.lowest; q < end; q++ {
			tx.Delete(s.key('a', session, q))
		}
		r.lowest = lowest
	}
	fresh := sequence > r.highest && sequence-r.lowest < SessionWindow
	if fresh {
		r.highest = sequence
	}
	s.put(tx, session, r)
	switch {
	case sequence < r.lowest:
		return nil, SessionForgotten
	case sequence-r.lowest >= SessionWindow:
		return nil, SessionFull
	case fresh:
		return nil, SessionNew
	}
	if answer, ok = tx.Get(s.key('a', session, sequence)); ok {
		return answer, SessionAnswered
	}
	return nil, SessionNew
}

// Answer remembers the answer to a request that Begin called new.
func (s Sessions) Answer(tx Tx, session, sequence uint64, answer []byte) {
	tx.Set(s.key('a', session, sequence), answer)
}

// Look returns the answer already given to a request, if it is remembered. A
// leader asks it before it proposes.
func (s Sessions) Look(r Reader, session, sequence uint64) ([]byte, bool) {
	return r.Get(s.key('a', session, sequence))
}

// Live reports whether a request of the session would be executed.
func (s Sessions) Live(r Reader, session uint64, now eggs.Time) bool {
	rec, ok := s.record(r, session)
	return ok && rec.last+SessionLife > now
}

// Awaits reports whether the answer to a request may still be asked for: its
// session lives and has not said that it knows it. A machine whose answers come
// later than the entry of their request asks before Answer.
func (s Sessions) Awaits(r Reader, session, sequence uint64, now eggs.Time) bool {
	rec, ok := s.record(r, session)
	return ok && rec.last+SessionLife > now && sequence >= rec.lowest
}

// Due returns when Expire next has something to look at, if ever. A machine
// may keep it in memory, as a session that opens is never due before the others.
func (s Sessions) Due(r Reader) (due eggs.Time, ok bool) {
	r.Scan(s.key('d'), s.key('e'), false, func(k, _ []byte) bool {
		due, ok = eggs.Time(binary.BigEndian.Uint64(k[2:])), true
		return false
	})
	return due, ok
}

// Expire looks at up to limit sessions that are due and forgets those that
// ended, which it returns: their user drops what it holds for them.
func (s Sessions) Expire(tx Tx, now eggs.Time, limit int) (ended []uint64) {
	var due [][]byte
	tx.Scan(s.key('d'), s.key('d', uint64(now)+1), false, func(k, _ []byte) bool {
		if len(due) == limit {
			return false
		}
		due = append(due, append([]byte(nil), k...))
		return true
	})
	for _, k := range due {
		tx.Delete(k)
		id := binary.BigEndian.Uint64(k[10:])
		r, ok := s.record(tx, id)
		switch {
		case !ok:
		case r.last+SessionLife > now:
			tx.Set(s.key('d', uint64(r.last+SessionLife), id), nil)
		default:
			s.end(tx, id)
			ended = append(ended, id)
		}
	}
	return ended
}

// Count returns the number of sessions.
func (s Sessions) Count(r Reader) (n uint64) {
	r.Scan(s.key('s'), s.key('t'), false, func(_, _ []byte) bool { n++; return true })
	return n
}

func (s Sessions) end(tx Tx, id uint64) {
	var answers [][]byte
	tx.Scan(s.key('a', id), s.key('a', id+1), false, func(k, _ []byte) bool {
		answers = append(answers, append([]byte(nil), k...))
		return true
	})
	for _, k := range answers {
		tx.Delete(k)
	}
	tx.Delete(s.key('s', id))
}

func (s Sessions) record(r Reader, id uint64) (rec sessionRecord, ok bool) {
	v, ok := r.Get(s.key('s', id))
	if !ok || len(v) != 32 {
		return rec, false
	}
	return sessionRecord{
		client:  binary.BigEndian.Uint64(v),
		last:    eggs.Time(binary.BigEndian.Uint64(v[8:])),
		lowest:  binary.BigEndian.Uint64(v[16:]),
		highest: binary.BigEndian.Uint64(v[24:]),
	}, true
}

func (s Sessions) put(tx Tx, id uint64, r sessionRecord) {
	v := make([]byte, 0, 32)
	for _, n := range [...]uint64{r.client, uint64(r.last), r.lowest, r.highest} {
		v = binary.BigEndian.AppendUint64(v, n)
	}
	tx.Set(s.key('s', id), v)
}

func (s Sessions) key(table byte, numbers ...uint64) []byte {
	k := make([]byte, 2, 2+8*len(numbers))
	k[0], k[1] = s.Prefix, table
	for _, n := range numbers {
		k = binary.BigEndian.AppendUint64(k, n)
	}
	return k
}

// mix spreads session ids, so that one group's session is not taken for
// another's. It is a bijection.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
