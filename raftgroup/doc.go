// Package raftgroup is what shards and the CDC share: hashicorp/raft groups,
// made so that 257 of them are cheap on a small machine.
//
// A Host is one node's part. It holds a Group, that is a replica, for each group
// that this node is a member of; all of them share one log file, one state store and
// one connection in each direction to every other node. A caller gives each
// group a Machine, proposes entries to the Group that leads, and reads its state
// linearizably. Who leads what is in a table that all nodes tell each other.
//
// It is not: a directory of who belongs to which group (package cdc keeps that),
// a judge of who is alive (package gossip; its word is a hint here), or a client
// (nothing is forwarded: what is asked of the wrong node is answered NotLeader).
//
// # Order of use
//
// Open, then AddAll, and only then accept connections for Serve, then SetPeers. The
// first node of a cluster calls BootstrapAll once. On the way down: Handover, which
// leaves no request in the air, then Close.
//
// # Invariants
//
//   - R1 What Propose answered without an error survives the loss of any minority of
//     the group's voters, and is in every Read that began afterwards, on any node.
//   - R2 What Propose refused with any Kind but Indeterminate is in no log and never
//     will be.
//   - R3 Read decides nothing by a clock: a majority of the latest configuration's voters
//     confirms the term after the commit index was recorded. See Group.Read.
//   - R4 A node's term in a group never falls: everything that reaches raft
//     from outside, heartbeats included, goes through one queue in order.
//   - R5 A replica without state never stands for election.
//   - R6 A leader is deposed only when a majority of its group's voters report its node
//     down, or when it hands over itself, or by raft's own rules.
//   - R7 Requests of one peer for one group reach raft in the order in which they were sent.
//
// # Failover
//
// Raft's own timers are long (Timers.Raft) and only a safety net: what a group costs
// while idle is proportional to how often its members speak. Instead nodes ping
// each other. A node reports another one down at once when its connection broke and
// redialling is refused, and otherwise after Timers.Silent without a sign of life; the
// reports travel with the pings. When a majority of a group's voters reports its leader
// down, one of them stands for election without asking whether there is still a
// leader (raft's TimeoutNow, given to itself). Who it is follows from the group's
// number, so that survivors share the load; see vacancy. The same rule serves a start,
// when nobody knows of a leader. After a takeover from a node that was merely silent
// the next one from that node waits longer, twice as long each time.
//
// A leader that hears from no majority for Timers.Silent answers Unavailable. A
// process that was stopped and goes on may still believe that it leads: it can
// commit nothing, since followers are in a later term, and confirms no read.
//
// Leaderships go back to the preferred node (see Host.preferred) when it has been in
// contact for Timers.Settle and has caught up. For a transfer new proposals are held,
// those in the air land, the target gets what it lacks and then stands; so nobody
// sees Indeterminate.
//
// # Connections
//
// Each node dials each other one: its requests go out on that connection, answers
// come back on it, and the table of leaders goes both ways. Snapshots have connections of
// their own. Integers are little end first. A frame is
//
//	u32 length of all that follows it   u32 CRC-32C of all that follows it
//	u8 kind   u8 zero   u16 group   u64 id   body
//
// and at most 4 MiB. "sized" is a u32 and so many bytes. The first frame of whoever dialled
// is hello, the answer welcome; a refusal says why and ends the connection. What is
// not of this cluster or not meant for this node is refused there; what is malformed later
// ends the connection with a line in the log.
//
//	1 hello, 2 welcome  u16 version = 1, u8 whether for a snapshot, u64 cluster,
//	          u64 from, u64 to, u64 incarnation, sized refusal
//	3 table   u8 whole, u64 incarnation, u64 version, u16 count, of each row u16 group,
//	          u64 leader (0: the sender leads no more), u64 term; no answer
//	4 ping    u8 bits (1 draining, 2 send your table first), u16 count, u64 of each node
//	          that the sender reports down; the answer has the same form
//	5 beats   u16 count, of each heartbeat u16 group, u64 id, u64 term; each is
//	          answered by itself, as an append
//	6 append  u64 term, u64 previous index, u64 its term, u64 commit, u32 count, of each
//	          entry u64 term, u8 type, i64 ns, sized data, sized extensions; entry i has
//	          the index previous + 1 + i; the answer: u64 term, u64 last index,
//	          u8 success, u8 no back-off
//	7 vote, 8 pre-vote  u64 term, u64 last index, u64 last term, u8 transfer; the
//	          answer: u64 term, u8 granted
//	9 timeout-now  no body, no body in the answer
//	10 ask    u16 count, of each u16 group, u64 term; the answer: of each a byte, 1 if
//	          the group is in that term here
//	11 snapshot  u64 term, u64 last index, u64 its term, u64 configuration index, u64 size,
//	          u8 version, sized configuration; then size bytes; the answer as of a vote
//	12 done   the answer to the request with that id
//	13 failed its failure, in words
//
// The log's and the state's formats are further down.
package raftgroup
