// Package wire is what crosses a socket or enters a log: the messages (*.proto
// and what is generated from them), the framed RPC that carries them, the
// frames of the block protocol, and the one TCP listener of a node.
//
// It does not know what a message means, holds no key and retries nothing.
//
// # The port
//
// A node listens on one TCP port. A connection that begins like TLS gets a TLS
// handshake and goes, by its ALPN protocol, to the room that serves it. One
// that begins with PlainBlockMagic goes to the block server without TLS, where
// that is allowed. Anything else is told so in a line of text and closed.
//
// # RPC frames
//
// Numbers are little end first.
//
//	0   u32  n, bytes that follow this field: 12 + body, at most 12 + MaxBody
//	4   u8   type
//	5   u8   flags: 1 = the body begins with a u32, milliseconds until the deadline
//	6   u16  method
//	8   u64  call id, chosen by the caller, increasing, never used twice on a connection
//	16  …    body
//
//	type 0 void      nothing; a request that was taken back before it left
//	     1 hello     body Hello; the first frame each way, the dialer's first
//	     2 request   body is the method's request
//	     3 reply     body is the method's answer
//	     4 failure   body Error; ends a call or a stream
//	     5 cancel    the caller gave up; no answer is wanted
//	     6 item      one message of a stream
//	     7 end       the stream ended well
//	     8 credit    body u32: bytes of items that the caller has taken
//	     9 ping      answered by
//	     10 pong
//	     11 goodbye  body Error: why the sender closes the connection now
//
// After the hellos the dialer calls and the listener answers, in any order,
// with many calls in flight. Whoever heard nothing for a while pings; a peer that stays silent
// is given up. A frame that breaks these rules is answered by a goodbye in
// words and the connection is closed. Items of a stream not yet taken are at
// most StreamWindow bytes, or one item.
//
// # Outcomes of a call
//
// The difference between "not done" and "unknown" is a promise of the system,
// so it is exact here: a request counts as sent from the moment its first byte
// may have been given to the socket. A call that ends without an answer
// fails with Kind Indeterminate when its request counts as sent, and with
// Unavailable (connection lost), Canceled or Timeout (context over) when not. A server
// that is closing, or has too much to do, refuses before the handler runs: Unavailable, Busy.
//
// # Block frames
//
//	u32 n, at most MaxBlockFrame; n bytes of BlockRequest or BlockReply
//
// followed by raw bytes where block.proto says so. One request at a time.
package wire
