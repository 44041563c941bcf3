// Package gossip tells a node who else is there, where, and with which disks.
// It is hashicorp/memberlist with a transport of our own: packets by UDP and
// streams by TLS, both on the node's one port.
//
// What it says is a hint. It decides no ownership, carries no secret, and
// keeps nothing across a restart: who belongs to the cluster is the
// coordinator's to say.
//
// # Names and addresses
//
// A member's name is its node id in hex. memberlist knows members by IP address and
// refuses one that comes back under another address until the old one is
// declared dead. So it is given addresses that never change, made from the
// node id (fdee:6567:6773:1::ID, port 1), and the transport knows where each
// node really is from what memberlist calls meta. A node that moves says so as it would any
// other change of its meta; and an address may be a host name.
//
// # What travels
//
// Meta, at most 512 bytes, in each announcement of a node; protobuf encoding:
//
//	1 fixed64 cluster   2 fixed64 node    3 string address  4 string http
//	5 string domain     6 varint roles    7 string version  8 varint leaving
//
// Record: the disks of a node, as that node last said it. It travels whole in
// the push/pull of states, and when it changes as broadcasts, in chunks that fit a packet:
//
//	1 fixed64 node   2 varint version   3 varint clock   4 bytes disk, repeated
//	5 varint chunk   6 varint chunks    (0 and 1 when whole)
//
//	disk: 1 fixed64 id  2 varint class  3 varint capacity  4 varint free
//	      5 varint writable  6 varint load
//
// The state of a push/pull is records as field 1; a broadcast is one record.
// Only its node makes records about itself; of two the higher version
// counts, and a node that hears a version of itself that it did not make goes above it.
// The answer to a probe carries the answering node's clock and the version of its record,
// 8 bytes each, little end first; who sees a version that no broadcast brought fetches it.
//
// # Who gets in
//
// Streams are mutual TLS. Packets and streams are sealed with the cluster's
// gossip key, and labelled with the cluster's id, which is checked first. A
// member whose meta names another cluster, or another node than its name, is ignored.
//
// # Timing
//
// A silent node is suspected within about half a second and declared dead 1.2 s after two
// others missed it (2.4 s when only one can tell). Dead nodes are dialed again, one
// every reconnectEvery, so that a healed partition comes together by itself.
package gossip
