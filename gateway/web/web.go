package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// Limits of the server: it is for a few people and monitors, not for a crowd.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	maxHeader    = 16 << 10        // bytes
	askTimeout   = 3 * time.Second // one round to all nodes
	pictureAge   = time.Second     // a picture this young is shown to everybody who asks
)

// Reporter is what the page needs to know of its node.
type Reporter interface {
	// NodeStatus is this node's truth about itself.
	NodeStatus() *wire.NodeStatus
	// ClusterStatus asks every node.
	ClusterStatus(ctx context.Context) (*client.ClusterStatus, error)
	// Waiting says in words why the node is not ready; "" when it is.
	Waiting() string
	// GroupHash is the checksum of a replica's state and the index it is of.
	GroupHash(g eggs.GroupID) (hash uint64, index uint64, err error)
}

// Server is one node's HTTP door.
type Server struct {
	report Reporter
	log    *slog.Logger
	http   *http.Server
	ln     net.Listener

	mu      sync.Mutex
	picture *client.ClusterStatus
	taken   time.Time
	err     error
}

// Open listens on addr and serves until Close.
func Open(addr string, r Reporter, log *slog.Logger) (*Server, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, &eggs.Error{Op: "web.Open", Name: addr, Kind: eggs.IO, Err: err}
	}
	s := &Server{report: r, log: log, ln: ln}
	s.http = &http.Server{
		Handler: s.routes(), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := s.http.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("status page ended", "err", err)
		}
	}()
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Close ends the server and the requests under way.
func (s *Server) Close() error { return s.http.Close() }

func (s *Server) routes() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(s.report), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /api/node", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, s.report.NodeStatus())
	})
	mux.HandleFunc("GET /api/status", s.status)
	mux.HandleFunc("GET /api/groups/{group}", s.group)
	mux.HandleFunc("GET /fragment", s.page("body"))
	mux.HandleFunc("GET /{$}", s.page("page"))
	return mux
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if why := s.report.Waiting(); why != "" {
		http.Error(w, "not ready: "+why, http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

// cluster returns a picture of all nodes, at most pictureAge old, so that many
// open pages cost no more than one.
func (s *Server) cluster(ctx context.Context) (*client.ClusterStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.taken) > pictureAge {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		s.picture, s.err = s.report.ClusterStatus(ctx)
		s.taken = time.Now()
	}
	return s.picture, s.err
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.cluster(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, st)
}

func (s *Server) group(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("group")
	n, err := strconv.Atoi(name)
	if name == "cdc" {
		n, err = int(eggs.CDCGroup), nil
	}
	if err != nil || n < 0 || n >= eggs.Groups {
		http.Error(w, "no such group: 0 to 255, or cdc", http.StatusNotFound)
		return
	}
	for _, g := range s.report.NodeStatus().Groups {
		if int(g.Group) == n {
			hash, index, err := s.report.GroupHash(eggs.GroupID(n))
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			writeJSON(w, map[string]any{"group": g, "state_hash": strconv.FormatUint(hash, 16), "hash_index": index})
			return
		}
	}
	http.Error(w, "this node holds no replica of the group", http.StatusNotFound)
}

func (s *Server) page(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		st, err := s.cluster(r.Context())
		var b bytes.Buffer
		p := pictureOf(st, err)
		p.Repair = repairOf(s.report)
		if terr := templates.ExecuteTemplate(&b, name, p); terr != nil {
			s.log.Error("status page", "err", terr)
			http.Error(w, "the page could not be drawn", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy",
			"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
		_, _ = w.Write(b.Bytes())
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}
