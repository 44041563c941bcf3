package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"eggsfs/eggs"
)

// Identity is who a certificate says its holder is.
type Identity struct {
	Node  eggs.NodeID // 0: a client
	Scope string      // what a narrowed client may do; "" is everything
}

// String prints "node 00…", "client" or "client (scope …)".
func (id Identity) String() string {
	s := "client"
	if id.Node != 0 {
		s = "node " + id.Node.String()
	}
	if id.Scope != "" {
		s += " (scope " + id.Scope + ")"
	}
	return s
}

// NotThisKey is what both ends of a connection say when their keys differ.
const NotThisKey = "not the key of this cluster"

const (
	uriScheme = "eggs"
	caName    = "EggsFS key " // followed by the key's id: it names the peer's key in an error
	maxScope  = 256           // bytes: it travels in every handshake
)

// Every certificate is valid for as long as X.509 can say.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// authority is the certificate authority that a key determines.
type authority struct {
	private ed25519.PrivateKey
	cert    *x509.Certificate
}

func newAuthority(seed []byte, id string) (*authority, error) {
	private := ed25519.NewKeyFromSeed(seed)
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: caName + id},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, private.Public(), private)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{private: private, cert: cert}, err
}

// leaf is a certificate of this process, and its sessions with servers.
type leaf struct {
	cert     tls.Certificate
	sessions tls.ClientSessionCache
}

// maxSessions bounds the remembered TLS sessions of one identity, by address:
// two a node of a cluster of 128, so that a redial costs no signatures.
const maxSessions = 256

// leafFor mints the certificate of an identity, once a process.
func (k *Key) leafFor(id Identity) (*leaf, error) {
	if len(id.Scope) > maxScope {
		return nil, eggs.E("auth.TLS", eggs.Invalid, "the scope is too long")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.leaves[id]; l != nil {
		return l, nil
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, &eggs.Error{Op: "auth.TLS", Kind: eggs.IO, Err: err}
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, &eggs.Error{Op: "auth.TLS", Kind: eggs.IO, Err: err}
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: id.String()},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{uriOf(id)},
	}
	if id.Node != 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	ca := k.ring[0].ca
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, public, ca.private)
	if err != nil {
		return nil, &eggs.Error{Op: "auth.TLS", Kind: eggs.Invalid, Err: err}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, &eggs.Error{Op: "auth.TLS", Kind: eggs.Invalid, Err: err}
	}
	l := &leaf{
		cert: tls.Certificate{
			Certificate: [][]byte{der}, PrivateKey: private, Leaf: parsed,
		},
		sessions: tls.NewLRUClientSessionCache(maxSessions),
	}
	k.leaves[id] = l
	return l, nil
}

// config is what both sides of every connection have in common.
func (k *Key) config(id Identity, usage x509.ExtKeyUsage) (*tls.Config, *leaf, error) {
	l, err := k.leafFor(id)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	for _, s := range k.ring {
		pool.AddCert(s.ca.cert)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{l.cert},
		// The plain curve: a connection lives for hours, yet hundreds are made when a node
		// starts, and the hybrid one costs a third more CPU a handshake.
		CurvePreferences: []tls.CurveID{tls.X25519},
		// Blocks and log entries are long: full records from the first byte.
		DynamicRecordSizingDisabled: true,
		// Called for each handshake, resumed ones too; it takes the place of the
		// standard check of a host name, which nodes do not have.
		VerifyConnection: func(cs tls.ConnectionState) error {
			return k.verify(cs, pool, usage)
		},
	}, l, nil
}

// ServerTLS returns the configuration of a node's listener for some protocols.
func (k *Key) ServerTLS(id Identity, alpn ...string) (*tls.Config, error) {
	if id.Node == 0 {
		return nil, eggs.E("auth.ServerTLS", eggs.Invalid, "only a node serves")
	}
	c, _, err := k.config(id, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	c.NextProtos = alpn
	c.ClientAuth = tls.RequireAnyClientCert // VerifyConnection checks it
	return c, nil
}

// ClientTLS returns the configuration for dialing a node with one protocol.
func (k *Key) ClientTLS(id Identity, alpn string) (*tls.Config, error) {
	c, l, err := k.config(id, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	c.NextProtos = []string{alpn}
	// VerifyConnection checks the certificate. Without a server name, sessions
	// are remembered by address, which is what tells nodes apart.
	c.InsecureSkipVerify = true
	c.ClientSessionCache = l.sessions
	return c, nil
}

// verify checks the peer's certificate and says in words what is wrong with it.
func (k *Key) verify(cs tls.ConnectionState, pool *x509.CertPool, usage x509.ExtKeyUsage) error {
	refuse := func(text string) error { return eggs.E("auth.Verify", eggs.Permission, text) }
	if len(cs.PeerCertificates) == 0 {
		return refuse("the peer shows no certificate")
	}
	cert := cs.PeerCertificates[0]
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       pool,
		KeyUsages:   []x509.ExtKeyUsage{usage},
		CurrentTime: notBefore.AddDate(10, 0, 0), // validity is rotation's matter, not the clock's
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		theirs, ok := strings.CutPrefix(cert.Issuer.CommonName, caName)
		if !ok || len(theirs) > 2*8 {
			return refuse("the peer's certificate is from someone else: " + NotThisKey)
		}
		return refuse(fmt.Sprintf("%s: the peer has key %q, this side %s",
			NotThisKey, theirs, k.ID()))
	case err != nil:
		return refuse("the peer's certificate is refused: " + err.Error())
	}
	_, err = PeerOf(cs)
	return err
}

// PeerOf returns who the other end of a connection is, from its certificate,
// which the handshake has verified.
func PeerOf(cs tls.ConnectionState) (Identity, error) {
	refuse := func(text string) (Identity, error) {
		return Identity{}, eggs.E("auth.PeerOf", eggs.Permission, text)
	}
	if len(cs.PeerCertificates) == 0 {
		return refuse("the peer shows no certificate")
	}
	uris := cs.PeerCertificates[0].URIs
	if len(uris) != 1 || uris[0].Scheme != uriScheme {
		return refuse("the peer's certificate does not say who it is")
	}
	id := Identity{Scope: uris[0].Query().Get("scope")}
	switch uris[0].Host {
	case "client":
	case "node":
		n, err := eggs.ParseNodeID(strings.TrimPrefix(uris[0].Path, "/"))
		if err != nil {
			return refuse("the peer's certificate names no node")
		}
		id.Node = n
	default:
		return refuse("the peer's certificate is for " + uris[0].Host + ", not a node or a client")
	}
	return id, nil
}

func uriOf(id Identity) *url.URL {
	u := &url.URL{Scheme: uriScheme, Host: "client"}
	if id.Node != 0 {
		u.Host, u.Path = "node", "/"+id.Node.String()
	}
	if id.Scope != "" {
		u.RawQuery = url.Values{"scope": {id.Scope}}.Encode()
	}
	return u
}
