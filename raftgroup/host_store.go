package raftgroup

import (
	"errors"
	"path/filepath"
	"time"

	"eggsfs/eggs"
)

// store is what a node keeps on its disk for all groups.
type store struct {
	log   *Log
	state *State
}

func openStore(c *Config) (*store, error) {
	log, err := OpenLog(filepath.Join(c.Dir, "raft.log"), LogOptions{
		MustExist: c.MustExist, Logger: c.Logger, Fatal: c.Fatal,
	})
	if err != nil {
		return nil, err
	}
	state, err := OpenState(filepath.Join(c.Dir, "state"), StateOptions{
		InMemory: c.InMemory, MustExist: c.MustExist, Logger: c.Logger, Fatal: c.Fatal,
	})
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &store{log, state}, nil
}

func (s *store) close() error { return errors.Join(s.state.Close(), s.log.Close()) }

// replica is one group's part of the store.
type replica struct {
	log   *GroupLog
	state *GroupState
}

func (s *store) replica(id eggs.GroupID, m Machine) (*replica, error) {
	state, err := s.state.Group(id, m)
	if err != nil {
		return nil, err
	}
	log := s.log.Group(id)
	if err := state.Attach(log); err != nil {
		return nil, err
	}
	return &replica{log, state}, nil
}

// drop forgets the log first: a log that begins above an empty state would be
// taken for a loss.
func (r *replica) drop() error {
	if err := r.log.Drop(); err != nil {
		return err
	}
	return r.state.Drop()
}

// truncate keeps the log short for as long as the host is open.
func (h *Host) truncate() {
	defer h.wg.Done()
	tick := time.NewTicker(care)
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		freed, err := MaybeTruncate(h.store.log, h.store.state, h.cfg.Truncate)
		if err != nil {
			h.log.Error("the log was not truncated", "err", err)
		}
		if freed > 0 {
			h.counters.truncated.Add(uint64(freed))
			h.log.Info("truncated the log", "bytes", freed)
		}
	}
}
