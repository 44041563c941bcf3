// Package cdc is the cross-directory coordinator: it makes one change of what lies
// in two directories, and with them in two shards, and it keeps the facts that
// outlive any node: who belongs to the cluster, which disks there are, who holds
// which replica.
//
// It is not a lock service and not a cache of the namespace. It knows of each
// directory its parent and nothing else; whether a name is taken or a directory is
// empty is judged by the shard that knows, in the same apply that acts on it. It
// knows neither raft nor the network: Group and Shards are what it needs of them.
//
// # Two halves
//
// Machine is what every replica does with an entry of the log. An entry begins a
// transaction (or changes a fact, which is done at once), or says that transactions
// are done, many in one entry. Nothing is logged in between.
//
// CDC is one node's door. While its node leads, an engine runs every unfinished
// transaction of the log, each in a goroutine, step by step. A step is one verb sent
// to one shard under a fence: (transaction, step, oldest unfinished transaction).
// The shard remembers its answer to each (transaction, step), whether result or
// refusal, repeats it to whoever asks again, and forgets it only when a request has
// told it that oldest has passed the transaction.
//
// Only an answer moves a transaction: a result, or a refusal of a kind that says
// something about the namespace. A time-out, a lost reply, a shard without leader,
// Busy, Stale: the step is sent again, for as long as the leadership lasts.
//
// # Replay
//
// A new leader runs every unfinished transaction again from its first step. Why this
// comes to the same end:
//
//	R1  What a transaction does next depends on its record in the log and on the
//	    answers to its fenced steps, and on nothing else: not on a clock, not on
//	    chance, not on a query, not on how often something was tried. (rmdir reads
//	    policies by query; they are an argument of a step and choose no step. The
//	    wait for another's lock counts refusals, each under a step number of its own.)
//	R2  The answers are remembered while the transaction is unfinished: oldest is the lowest
//	    transaction whose done is not applied here, applied is committed, and ids
//	    grow in the order of the log, so no leader, deposed or not, ever
//	    sends an oldest above a transaction that is unfinished.
//	R3  So the second run sends the steps of the first in the same order, gets the same
//	    answers as far as the first one came, and goes on from there.
//
// From R3: a client may be answered when the last deciding step is answered, before
// done is logged. If the leader falls then, the next one comes to the same answer,
// and the retried request attaches to that run, or finds the answer with its
// session. And the next transaction in a queue may begin then: on a new leader it is
// queued behind the replay of the first, whose steps change nothing.
//
// A late step of a deposed leader does no harm. By R1 the new leader sends that same
// (transaction, step) before the transaction can be done. So when it arrives late,
// it finds either the answer in the shard's memory, or, when that was forgotten, its
// transaction below oldest, and is refused as Stale. It can't lock a name again, or
// make an inode again, after a rollback.
//
// # Queues
//
// Transactions run in parallel unless they touch the same (directory, name), or the
// same directory inode as the thing that they make or remove. Each such thing has a
// FIFO queue. A transaction joins all its queues at once, in the order of the log,
// and runs when it is first in all of them; so nobody waits in a circle and nobody
// starves, and a new leader rebuilds the queues from the log. What is made inside a
// directory does not queue with that directory's removal: both are judged in its
// shard, where one of them is refused.
//
// So no transaction ever meets another's lock. If one does all the same (a broken
// invariant, or an operator's repair), it waits for a bounded number of refusals,
// rolls back and answers Timeout.
//
// # Transactions
//
// Each is written as its steps (stage: verb at shard), its refusals, and why the
// invariants hold at every instant. Numbers are those of the project's list: 6 one
// owning edge a file, never none; 8 a directory's owner and its one edge agree; 9
// owners reach the root; 10 the parent map is the owners; 12 no lock without
// transaction; 37 a rollback leaves nothing; 38 concurrent mkdirs make one
// directory.
//
//	mkdir           1 CreateDirectory at the new id's shard, owner set
//	                2 CreateEdge at the parent's shard: the moment it exists
//	                  refused → 4 UncreateDirectory, answer the refusal
//
// The inode comes first, so no edge ever points to nothing (8). Until the edge is
// made nobody knows the id, which was handed out by this begin and to nobody else;
// so nothing can be in the directory, and taking it back leaves nothing (37). Of
// several mkdirs of one name each has its own inode and one gets the edge (38). A
// retried request is of the same transaction and gets the same id. An id of a
// refused mkdir is burned.
//
//	rmdir           1 LockEdge at the parent's shard: answers the target
//	                  not a directory → 4 UnlockEdge, answer NotDir
//	                2 RemoveOwner at the target's shard, if it is empty
//	                  refused → 4 UnlockEdge, answer the refusal, such as NotEmpty
//	                3 UnlockEdge(moved) at the parent's shard: the name is history
//
// Emptiness is judged where links and mkdirs into the target are judged, and a
// removed directory takes no edge; so whichever comes first wins. The locked edge
// keeps the target's parent alive and the name in its place until the owner is gone
// (8, 9). After step 2 there is no way back and nothing can refuse step 3, as only
// this transaction may change the edge (12). All policy tags go along in step 2: the
// target's own, else the nearest ancestor's, else the default; no ancestor can go
// while the edge is there. The edge becomes a snapshot edge that is not owned, as
// edges to directories never are.
//
//	rename          1 LockEdge at the source's shard: answers the target
//	(of a file or     a directory → 4 UnlockEdge, answer CrossDir
//	symlink)        2 CreateEdge at the destination's shard, replacing a file or not
//	                  refused → 4 UnlockEdge, answer the refusal, such as Exist or IsDir
//	                3 UnlockEdge(moved) at the source's shard: not owned
//
// Between 2 and 3 there are two names, the older one locked, and before and after
// there is one (6). The lock keeps the older from being unlinked, replaced or
// renamed in between, so the file is never owned twice by edges that can both be
// unlinked. What becomes of the new name meanwhile, it owns the file. A replaced
// file becomes an owned snapshot in the apply of step 2. A rollback happens before 2
// only, and leaves the source as it was. A directory is not moved: its parent would
// change, and the loops (9) that two such moves can make are kept out by not having
// them.
//
//	hard unlink     1 RemoveEdge at the directory's shard, if the edge is owned and
//	                  to this target; refused → answer Conflict or NotExist
//	                3 MakeTransient at the file's shard: the collector's from now on
//
// The condition is judged in the apply that removes the edge, so an undelete that
// came first keeps its content. After 1 the file has no edge at all and no one but
// this transaction knows it; 3 cannot be refused.
//
// RestoreOwner is not used by these: nothing can be refused after RemoveOwner.
//
// The parent map changes at begin for mkdir, and back if it was refused, and at done
// for rmdir: so it has at least every directory that lives, and who walks it meets
// an unknown parent only where there is none, which is an error and no panic. At
// rest it is equal to the owners (10). A request in a directory that the map does
// not have is answered NotExist at once.
//
// # Facts
//
// Nodes, disks with their flags, replicas of each group, the cluster's name and what is
// wanted of it. Every change of them makes a version, and a change may be made to depend on
// the version (CdcRequest.if_version), or on that of one group's record
// (PutReplicas.version), from which it was decided. Machine.Facts is an immutable picture of
// what this replica has applied.
//
// A disk retired, a node lost, a node removed: for ever. Disks share their node's fate: they
// drain when it does, are retired when it is lost. A node that holds a replica, or a disk
// that is not retired, can't be removed; one that was removed stays in the facts, flagged, so
// that its identity is refused. A group's replicas are on nodes that belong; the cluster
// gets its name once.
//
// # Formats
//
// Keys, numbers high byte first; values are messages of wire unless said otherwise:
//
//	01                          CdcState: format version, time, counters
//	02 transaction(8)           CdcTransaction: an unfinished one
//	03 directory(8)             its parent(8)
//	04                          PutCluster
//	05 node(8)                  NodeFact
//	06 disk(8)                  DiskFact
//	07 group(2)                 PutReplicas
//	10 …                        sessions, see raftgroup.Sessions
//
// An entry of the log is a CdcEntry. A step's number is stage<<8 | try, where try
// counts refusals with Locked. The group's time is max(the leader's clock, the last
// time + 1 ns).
package cdc
