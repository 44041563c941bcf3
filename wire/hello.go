package wire

import (
	"fmt"
	"net"
	"time"

	"eggsfs/eggs"
)

// NewHello introduces this program: a node, or a client when node is 0.
func NewHello(cluster eggs.ClusterID, node eggs.NodeID, software string) *Hello {
	return &Hello{
		MinVersion: MinVersion, MaxVersion: MaxVersion,
		Cluster: uint64(cluster), Node: uint64(node), Software: software,
	}
}

// checkHello fails with Kind Version or WrongCluster when two peers do not
// belong together, in words that fit both ends.
func checkHello(mine, theirs *Hello) error {
	if theirs.Error != nil {
		return theirs.Error.AsError()
	}
	if theirs.MinVersion > mine.MaxVersion || theirs.MaxVersion < mine.MinVersion {
		return eggs.E("wire.Hello", eggs.Version, fmt.Sprintf(
			"one side speaks versions %d to %d, the other %d to %d (%q)",
			mine.MinVersion, mine.MaxVersion,
			theirs.MinVersion, theirs.MaxVersion, cut(theirs.Software, 64)))
	}
	if mine.Cluster != 0 && theirs.Cluster != 0 && mine.Cluster != theirs.Cluster {
		return eggs.E("wire.Hello", eggs.WrongCluster, fmt.Sprintf(
			"one side belongs to cluster %s, the other to %s",
			eggs.ClusterID(mine.Cluster), eggs.ClusterID(theirs.Cluster)))
	}
	return nil
}

// readHello reads the first frame. It fails with an *eggs.Error when what came is no hello.
func readHello(r *frameReader) (*Hello, error) {
	h, err := r.next(MaxHello)
	if err != nil {
		return nil, err
	}
	if h.kind != frameHello && h.kind != frameGoodbye {
		return nil, eggs.E("wire.Hello", eggs.Invalid, fmt.Sprintf(
			"the first frame has type %d; a hello was wanted", h.kind))
	}
	body, large, err := r.view(h.size)
	defer release(large)
	if err != nil {
		return nil, err
	}
	if h.kind == frameGoodbye {
		return nil, goodbyeError(body)
	}
	hello := &Hello{}
	if err := hello.UnmarshalVT(body); err != nil {
		return nil, &eggs.Error{Op: "wire.Hello", Kind: eggs.Invalid, Err: err}
	}
	return hello, nil
}

// writeHello writes the first frame, at once.
func writeHello(conn net.Conn, h *Hello) error {
	b, err := appendFrame(nil, header{kind: frameHello}, nil, h)
	if err != nil {
		return err
	}
	conn.SetWriteDeadline(time.Now().Add(helloTime))
	_, err = conn.Write(b)
	conn.SetWriteDeadline(time.Time{})
	return err
}

// goodbyeError reads the body of a goodbye.
func goodbyeError(body []byte) error {
	e := &Error{}
	if err := e.UnmarshalVT(body); err != nil {
		return eggs.E("wire.Read", eggs.Invalid, "a goodbye that cannot be read")
	}
	return &eggs.Error{
		Op: "wire.Read", Kind: eggs.Kind(e.Kind), Err: fmt.Errorf("the peer closed: %w", e.AsError()),
	}
}

// cut shortens a peer's text to n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
