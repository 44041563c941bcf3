// Package auth turns the one secret of a cluster, its key, into everything
// that proves who is who: certificates for mutual TLS, gossip keys, cookies of
// files under construction, and the MACs of block certificates and proofs.
//
// It is not a network room: it dials and listens nowhere and logs nothing. It
// does not decide what a peer may do; it says who the peer is.
//
// # The key file
//
// A text file of mode 0600 (0640 is accepted, so that a service's group may
// read it). Lines that are empty or begin with '#' are skipped; each other line is a key:
//
//	eggsfs-key-1 ID SECRET
//
// SECRET is 32 random bytes in base64. ID is 16 hexadecimal digits derived from
// the secret, so a damaged line is noticed. The first key is the current one: it
// signs. The others only check, so that a key is rotated by (1) adding the
// new one as a second line everywhere, (2) moving it to the front everywhere,
// (3) removing the old line everywhere. A cookie is answered by every replica
// alike only outside step 2, so that step is taken with the writers at rest.
//
// # Derivation
//
// HKDF-SHA256 of the secret, without salt, with one label for each use:
//
//	eggsfs/1/id          8 bytes, the key's id
//	eggsfs/1/ca          32 bytes, the Ed25519 seed of the certificate authority
//	eggsfs/1/gossip      32 bytes, memberlist's AES-256-GCM key
//	eggsfs/1/cookie      32 bytes, the MAC key of cookies
//	eggsfs/1/disk/ID     32 bytes, the MAC key of the disk with that id in hex
//
// # Certificates
//
// Whoever holds the key can derive the authority's private key and mints its
// own certificate: an Ed25519 key made anew in each process, valid from
// 2000 to 9999 so that no clock cuts a node off. Its one URI says who it is:
// eggs://node/ID or eggs://client, with ?scope=... when it is narrowed. Only a
// node's certificate may serve. Both ends check the other's.
//
// # MACs
//
// HMAC-SHA256 cut to 16 bytes, over a letter that says what it allows (w, r, e:
// write, read, erase; W, E: proof of write, of erase) and the fields it covers,
// 8 bytes each, little end first. Comparison takes constant time.
package auth
