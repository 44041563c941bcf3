package web

import (
	"embed"
	"fmt"
	"html/template"
	"sort"
	"time"

	"github.com/dustin/go-humanize"

	"eggsfs/client"
	"eggsfs/eggs"
	"eggsfs/wire"
)

//go:embed page.html
var files embed.FS

var templates = template.Must(template.ParseFS(files, "page.html"))

// maxEvents is how many events the page shows.
const maxEvents = 20

// picture is what the template draws.
type picture struct {
	Error    string
	Cluster  string
	Health   string
	Problems []*wire.Problem
	Nodes    []nodeRow
	Cells    []cell // the 256 shards
	CDC      cell
	CDCStat  *wire.CdcStatAnswer
	Events   []eventRow
	Led      int
	Groups   int
	Free     string
	Capacity string
	Taken    string
	Removed  []string // nodes that belonged once
	Repair   string   // what the node that is asked has repaired
}

type nodeRow struct {
	ID, Short, Address, HTTP, Domain, State, Version string
	Color                                            int
	Leads, Holds                                     int
	Memory, Up                                       string
	Left                                             string // what is on it still, when it goes
	Bad                                              bool   // somebody should look
	Disks                                            []diskRow
	Retired                                          int // disks that nobody serves
}

type diskRow struct {
	ID, Path, Error string
	State           string // "" when there is nothing to say
	Fill            int    // per cent
	Room            string
	Blocks          uint64
	Off, Full, Bad  bool // how it is drawn
}

type cell struct {
	Name  string
	Color int // of the leading node; -1: nobody leads
	Lag   uint64
	Title string
}

type eventRow struct{ Time, Level, Node, Text string }

func pictureOf(st *client.ClusterStatus, err error) picture {
	p := picture{Taken: time.Now().Format(time.TimeOnly), Groups: eggs.Groups}
	if err != nil {
		p.Error = err.Error()
	}
	if st == nil {
		p.Health = "unknown"
		return p
	}
	p.Cluster, p.Health, p.Problems = st.Cluster.String(), st.Health, st.Problems
	said := map[uint64]*wire.NodeStatus{}
	for _, n := range st.Nodes {
		said[n.Id] = n
		if n.Cdc != nil {
			p.CDCStat = n.Cdc
		}
	}
	m := membersOf(st)
	p.nodes(st, said, m)
	p.Removed = m.removed()
	p.cells(st)
	p.events(st)
	return p
}

func (p *picture) nodes(st *client.ClusterStatus, said map[uint64]*wire.NodeStatus, m *members) {
	var free, capacity uint64
	for i, rn := range st.Routes.GetNodes() {
		if m.nodes[rn.Id].GetRemoved() {
			continue // whoever gave the routes has not heard of it yet
		}
		id := eggs.NodeID(rn.Id).String()
		row := nodeRow{ID: id, Short: id[:8], Address: rn.Address, Domain: rn.Domain, Color: i % 8}
		row.State, row.Left, row.Bad = m.state(rn.Id, said[rn.Id])
		row.Disks, row.Retired = m.disks(rn.Id, said[rn.Id])
		for _, l := range st.Routes.GetLeaders() {
			if l == rn.Id {
				row.Leads++
			}
		}
		if s := said[rn.Id]; s != nil {
			row.HTTP, row.Version, row.Holds = s.Http, s.Version, len(s.Groups)
			row.Memory = humanize.IBytes(s.Memory)
			row.Up = time.Since(eggs.Time(s.Started).Std()).Round(time.Second).String()
			for _, d := range s.Disks {
				free, capacity = free+d.Free, capacity+d.Capacity
			}
		}
		p.Nodes = append(p.Nodes, row)
	}
	p.Free, p.Capacity = humanize.IBytes(free), humanize.IBytes(capacity)
}

// cells colours each group by its leader and counts how far its slowest replica is behind.
func (p *picture) cells(st *client.ClusterStatus) {
	color := map[uint64]int{}
	for i, n := range st.Routes.GetNodes() {
		color[n.Id] = i % 8
	}
	most, least, held := make([]uint64, eggs.Groups), make([]uint64, eggs.Groups), make([]int, eggs.Groups)
	for _, n := range st.Nodes {
		for _, g := range n.Groups {
			if int(g.Group) >= eggs.Groups {
				continue
			}
			if held[g.Group] == 0 || g.Applied < least[g.Group] {
				least[g.Group] = g.Applied
			}
			most[g.Group] = max(most[g.Group], g.Applied, g.Committed)
			held[g.Group]++
		}
	}
	for g := range eggs.Groups {
		c := cell{Name: eggs.GroupID(g).String(), Color: -1}
		if held[g] > 0 {
			c.Lag = most[g] - least[g]
		}
		leader := "nobody leads"
		if leaders := st.Routes.GetLeaders(); g < len(leaders) && leaders[g] != 0 {
			if i, ok := color[leaders[g]]; ok {
				c.Color = i
			}
			leader = "led by " + eggs.NodeID(leaders[g]).String()[:8]
			p.Led++
		}
		c.Title = fmt.Sprintf("group %s: %s, %d replicas answer, slowest is %d entries behind",
			c.Name, leader, held[g], c.Lag)
		if g == int(eggs.CDCGroup) {
			p.CDC = c
		} else {
			p.Cells = append(p.Cells, c)
		}
	}
}

func (p *picture) events(st *client.ClusterStatus) {
	type at struct {
		node string
		e    *wire.Event
	}
	var all []at
	for _, n := range st.Nodes {
		for _, e := range n.Events {
			all = append(all, at{eggs.NodeID(n.Id).String()[:8], e})
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].e.Time > all[j].e.Time })
	if len(all) > maxEvents {
		all = all[:maxEvents]
	}
	for _, a := range all {
		p.Events = append(p.Events, eventRow{
			Time: eggs.Time(a.e.Time).Std().Format("15:04:05.000"), Level: a.e.Level, Node: a.node, Text: a.e.Text,
		})
	}
}
