package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"eggsfs/eggs"
)

// keepAlive notices a peer whose machine is gone on connections that have no pings of their own.
var keepAlive = net.KeepAliveConfig{
	Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
}

// DialTLS connects and shakes hands within ctx, and says in words why not:
// Kind Unavailable when nobody answers, Permission when either side refuses the other's key.
func DialTLS(ctx context.Context, addr string, cfg *tls.Config) (net.Conn, error) {
	fail := func(kind eggs.Kind, err error) (net.Conn, error) {
		return nil, &eggs.Error{Op: "wire.DialTLS", Name: addr, Kind: kind, Err: err}
	}
	d := net.Dialer{KeepAliveConfig: keepAlive}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fail(eggs.Unavailable, err)
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		go hangUpSlowly(raw)
		err = explainTLS(err)
		if eggs.KindOf(err) != eggs.Other {
			return fail(eggs.Other, err)
		}
		return fail(eggs.Unavailable, err)
	}
	return conn, nil
}

// hangUpSlowly lets the peer read the alert that says why, which closing at once could discard.
func hangUpSlowly(raw net.Conn) {
	if t, ok := raw.(*net.TCPConn); ok {
		t.CloseWrite()
		t.SetReadDeadline(time.Now().Add(lingerTime))
		io.CopyN(io.Discard, t, MaxHello)
	}
	raw.Close()
}

// explainTLS puts a failed handshake into words. The peer's refusal comes as
// an alert, which has a number and no text. Other errors stay as they are.
func explainTLS(err error) error {
	var op *net.OpError
	var record tls.RecordHeaderError
	switch {
	case err == nil || broken(err):
		return err
	case errors.As(err, &record):
		return eggs.E("tls", eggs.Invalid, "the other side does not speak TLS")
	case errors.As(err, &op) && op.Op == "remote error":
		text := op.Err.Error()
		if strings.Contains(text, "no application protocol") {
			return eggs.E("tls", eggs.Version, "the peer does not serve this protocol")
		}
		return eggs.E("tls", eggs.Permission, "the peer refuses this side's key: "+
			"not the key of this cluster ("+text+")")
	}
	return err
}
