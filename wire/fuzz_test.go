package wire

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

// The targets here take bytes as a stranger or a broken peer would send them.
// None may panic, hang, or take memory that the bytes do not account for.

func seedFrames(f *testing.F) {
	hello, _ := appendFrame(nil, header{kind: frameHello}, nil, NewHello(testCluster, 0, "fuzz"))
	request, _ := appendFrame(nil, header{kind: frameRequest, method: MethodPing, id: 1}, nil, &Ping{})
	late, _ := appendFrame(nil, header{kind: frameRequest, flags: flagDeadline, method: MethodShard, id: 2},
		[]byte{9, 0, 0, 0}, &ShardRequest{Shard: 3})
	stream, _ := appendFrame(nil, header{kind: frameRequest, method: MethodWatchRoutes, id: 3}, nil, nil)
	credit, _ := appendFrame(nil, header{kind: frameCredit, id: 3}, []byte{1, 0, 0, 0}, nil)
	f.Add(hello)
	f.Add(bytes.Join([][]byte{hello, request, late, stream, credit}, nil))
	f.Add(bytes.Join([][]byte{hello, request[:20]}, nil))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(frame(1<<32-1, byte(frameRequest), ""))
	for k := byte(0); k < byte(frameTypes)+1; k++ {
		f.Add(append(bytes.Clone(hello), frame(12, k, "")...))
	}
}

func FuzzFrame(f *testing.F) {
	seedFrames(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newFrameReader(bytes.NewReader(b))
		taken := 0
		for {
			h, err := r.next(MaxBody)
			if err != nil {
				break
			}
			body, large, err := r.view(h.size)
			if err != nil {
				release(large)
				break
			}
			if len(body) != h.size {
				t.Fatalf("a body of %d bytes, announced %d", len(body), h.size)
			}
			taken += headerBytes + len(body)
			release(large)
		}
		if taken > len(b) {
			t.Fatalf("%d bytes were made of %d", taken, len(b))
		}
	})
}

func FuzzServer(f *testing.F) {
	seedFrames(f)
	s := NewServer(ServerConfig{Hello: func() *Hello { return NewHello(testCluster, testNode, "fuzz") }})
	s.Handle(MethodPing, func(context.Context, []byte, *Hello) (Message, error) { return &Pong{}, nil })
	s.Handle(MethodShard, func(_ context.Context, b []byte, _ *Hello) (Message, error) {
		return &ShardReply{}, (&ShardRequest{}).UnmarshalVT(b)
	})
	s.HandleStream(MethodWatchRoutes, func(ctx context.Context, _ []byte, _ *Hello, send func(Message) error) error {
		for range 5 {
			if err := send(&Event{Text: "x"}); err != nil {
				return err
			}
		}
		return nil
	})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, here)
		go func() {
			here.SetWriteDeadline(time.Now().Add(time.Second))
			here.Write(b)
			time.Sleep(time.Millisecond)
			here.Close()
		}()
		s.ServeConn(there)
	})
}

func FuzzClient(f *testing.F) {
	hello, _ := appendFrame(nil, header{kind: frameHello}, nil, NewHello(testCluster, testNode, "fuzz"))
	for k := byte(0); k < byte(frameTypes)+1; k++ {
		f.Add(append(bytes.Clone(hello), frame(12, k, "")...))
		f.Add(append(bytes.Clone(hello), frame(14, k, "\xff\xff")...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		go func() {
			there.SetWriteDeadline(time.Now().Add(time.Second))
			there.Write(b)
			time.Sleep(time.Millisecond)
			there.Close()
		}()
		c, err := Dial(context.Background(), DialConfig{
			Addr: "fuzz", Hello: NewHello(testCluster, 0, "fuzz"),
			Dial: func(context.Context, string) (net.Conn, error) { return here, nil },
		})
		if err != nil {
			return
		}
		c.Call(context.Background(), MethodPing, &Ping{}, &Pong{})
		c.Stream(context.Background(), MethodWatchRoutes, &WatchRoutes{}, func([]byte) error { return nil })
		c.Close()
	})
}

func FuzzBlockFrame(f *testing.F) {
	b, _ := AppendBlockFrame(nil, &BlockRequest{Op: &BlockRequest_Put{Put: &PutBlock{Certificate: &Certificate{Disk: 1, Mac: make([]byte, 16)}}}})
	f.Add(b)
	f.Add([]byte("\xff\xff\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ReadBlockFrame(bytes.NewReader(b), &BlockRequest{})
		ReadBlockFrame(bytes.NewReader(b), &BlockReply{})
	})
}

// FuzzMessages: whatever decodes must encode, and mean the same.
func FuzzMessages(f *testing.F) {
	roots := []Message{
		&ShardRequest{}, &ShardReply{}, &ShardQuery{}, &ShardAnswer{}, &ShardEntry{},
		&CdcRequest{}, &CdcReply{}, &CdcQuery{}, &CdcAnswer{}, &CdcEntry{},
		&BlockRequest{}, &BlockReply{}, &Hello{}, &Routes{}, &NodeStatus{}, &Error{},
	}
	for i, m := range roots {
		p := m.(proto.Message).ProtoReflect().New()
		fill(p, "", 0)
		v := p.Interface().(Message)
		b := make([]byte, v.SizeVT())
		v.MarshalToSizedBufferVT(b)
		f.Add(byte(i), b)
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		root := roots[int(which)%len(roots)].(proto.Message).ProtoReflect()
		m := root.New().Interface()
		if m.(Message).UnmarshalVT(b) != nil {
			return
		}
		out := marshal(t, m)
		again := root.New().Interface()
		if err := again.(Message).UnmarshalVT(out); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(marshal(t, again), out) && !proto.Equal(m, again) {
			t.Fatal("a message changes when it is written and read")
		}
		if e, ok := m.(*Error); ok {
			_ = e.AsError().Error()
		}
	})
}
