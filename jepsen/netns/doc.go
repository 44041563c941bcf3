// Package netns runs a cluster of real binaries, each node on an address of its
// own, and breaks the network between them.
//
// As root every node lives in a network namespace whose veth ends at one bridge;
// the clients of the harness are on the bridge's own address. Packets are dropped
// by nftables inside the namespace of the one that should have got them, so a cut
// is silent, as a real one is, and can be one-way. Delay, loss, duplication and
// reordering are done by a user-space cable in place of the bridge's port, as the
// kernel may have no netem. Without root all nodes share the loopback address,
// and everything but the network can be broken.
//
// All names carry the owner's process id. Sweep removes what dead owners left:
// processes, namespaces, links and mounts. It runs before every new network.
package netns
