package blockd

import (
	"sync/atomic"

	"eggsfs/eggs"
)

// DiskStats counts what a disk has done since the start.
type DiskStats struct {
	Disk     eggs.DiskID
	Puts     uint64 // proved
	Gets     uint64
	Erases   uint64 // proved
	Checks   uint64 // blocks found good
	BytesIn  uint64 // of data, verified
	BytesOut uint64 // of data
	Corrupt  uint64 // requests that met a wrong checksum on the disk
	Busy     int    // requests that are being served: its load
}

// counters is what DiskStats is made of.
type counters struct {
	puts, gets, erases, checks, in, out, corrupt atomic.Uint64
	busy                                         atomic.Int64
}

// Stats returns each served disk's counters, in the order of the configuration.
func (s *Server) Stats() []DiskStats {
	var out []DiskStats
	for _, d := range s.services {
		if d.folder == nil {
			continue
		}
		c := &d.stats
		out = append(out, DiskStats{
			Disk: d.id, Puts: c.puts.Load(), Gets: c.gets.Load(), Erases: c.erases.Load(),
			Checks: c.checks.Load(), BytesIn: c.in.Load(), BytesOut: c.out.Load(),
			Corrupt: c.corrupt.Load(), Busy: int(c.busy.Load()),
		})
	}
	return out
}
