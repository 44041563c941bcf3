package client

import (
	"context"
	"sync"
	"time"

	"eggsfs/eggs"
	"eggsfs/wire"
)

// Limits of what is remembered of policies.
const (
	policyKeep  = 5 * time.Second // a change of policy is in force everywhere after this
	policyMax   = 8192            // directories; a few 100 bytes each
	policyDepth = 4096            // ancestors, far more than a path can name
)

// The bits of wire.SetPolicy.Clear.
const (
	tagSnapshot = 1 << iota
	tagSpan
	tagStripe
	tagInline
	tagsAll = tagSnapshot | tagSpan | tagStripe | tagInline
)

// policyCache remembers directories' own tags and owners, and what follows from them.
type policyCache struct {
	mu   sync.Mutex
	own  map[eggs.InodeID]ownTags
	full map[eggs.InodeID]inForce
}

type ownTags struct {
	tags  *wire.Policies
	owner eggs.InodeID
	until time.Time
}

type inForce struct {
	p     eggs.Policies
	until time.Time
}

func (pc *policyCache) clear() {
	pc.mu.Lock()
	pc.own, pc.full = nil, nil
	pc.mu.Unlock()
}

// Policies returns what is in force for dir: each tag of the nearest ancestor
// that has one, else the default for the cluster there is.
func (c *Client) Policies(ctx context.Context, dir eggs.InodeID) (eggs.Policies, error) {
	now := time.Now()
	c.policy.mu.Lock()
	f, ok := c.policy.full[dir]
	c.policy.mu.Unlock()
	if ok && now.Before(f.until) {
		return f.p, nil
	}
	p := c.defaults()
	missing := tagsAll
	at := dir
	for range policyDepth {
		own, err := c.ownTags(ctx, at, now)
		if err != nil {
			return eggs.Policies{}, fail("Policies", dir, "", err)
		}
		missing &^= takeTags(&p, own.tags, missing)
		if missing == 0 || own.owner == 0 {
			break
		}
		at = own.owner
	}
	c.policy.mu.Lock()
	if c.policy.full == nil || len(c.policy.full) >= policyMax {
		c.policy.full = make(map[eggs.InodeID]inForce)
	}
	c.policy.full[dir] = inForce{p, now.Add(policyKeep)}
	c.policy.mu.Unlock()
	return p, nil
}

// ownTags returns a directory's own tags and its owner.
func (c *Client) ownTags(ctx context.Context, dir eggs.InodeID, now time.Time) (ownTags, error) {
	c.policy.mu.Lock()
	o, ok := c.policy.own[dir]
	c.policy.mu.Unlock()
	if ok && now.Before(o.until) {
		return o, nil
	}
	a, err := c.stat(ctx, dir)
	if err != nil {
		return ownTags{}, err
	}
	if !a.ID.IsDir() {
		return ownTags{}, eggs.NotDir
	}
	o = ownTags{tags: a.Policies, owner: a.Owner, until: now.Add(policyKeep)}
	c.policy.keep(dir, o)
	return o, nil
}

func (pc *policyCache) keep(dir eggs.InodeID, o ownTags) {
	pc.mu.Lock()
	defer pc.mu.Unlock()
	if pc.own == nil || len(pc.own) >= policyMax {
		pc.own = make(map[eggs.InodeID]ownTags)
	}
	pc.own[dir] = o
}

// born remembers of a directory that was made just now that it has no tags of its own.
func (pc *policyCache) born(dir, owner eggs.InodeID) {
	pc.keep(dir, ownTags{owner: owner, until: time.Now().Add(policyKeep)})
}

// takeTags copies those of the wanted tags that w has, and returns which.
func takeTags(p *eggs.Policies, w *wire.Policies, want int) (took int) {
	if w == nil {
		return 0
	}
	if s := w.Snapshot; s != nil && want&tagSnapshot != 0 {
		p.Snapshot = eggs.SnapshotPolicy{
			KeepFor: time.Duration(s.KeepForNs), KeepVersions: s.KeepVersions,
		}
		took |= tagSnapshot
	}
	if s := w.Span; s != nil && len(s.Classes) > 0 && want&tagSpan != 0 {
		p.Span = nil
		for _, k := range s.Classes {
			p.Span = append(p.Span, eggs.SpanClass{
				MaxSize: int64(k.MaxSize),
				Parity:  eggs.Parity{D: uint8(k.D), P: uint8(k.P)}, Class: uint8(k.Class),
			})
		}
		took |= tagSpan
	}
	if s := w.Stripe; s != nil && want&tagStripe != 0 {
		p.Stripe.CellSize = s.CellSize
		took |= tagStripe
	}
	if s := w.Inline; s != nil && want&tagInline != 0 {
		p.Inline.MaxSize = s.MaxSize
		took |= tagInline
	}
	return took
}

// defaults are the policies of a cluster whose root says nothing.
func (c *Client) defaults() eggs.Policies {
	pic := c.see()
	domains := make(map[string]bool)
	disks := 0
	for _, d := range pic.routes.Disks {
		if d.Capacity > 0 || d.Writable {
			disks++
			domains[d.Domain] = true
		}
	}
	return eggs.DefaultPolicies(len(domains), disks)
}

// SetPolicy replaces the directory's own tags that are present in p; clear
// names tags to be inherited again.
func (c *Client) SetPolicy(ctx context.Context, dir eggs.InodeID, p *wire.Policies,
	clear uint32,
) error {
	_, err := c.Shard(ctx, dir.Shard(), &wire.Verb{Verb: &wire.Verb_SetPolicy{
		SetPolicy: &wire.SetPolicy{Dir: uint64(dir), Policies: p, Clear: clear},
	}})
	c.policy.clear()
	return fail("SetPolicy", dir, "", err)
}

// StatFS sums the disks that take blocks.
func (c *Client) StatFS(ctx context.Context) (StatFS, error) {
	p, err := c.Policies(ctx, eggs.Root)
	if err != nil {
		return StatFS{}, err
	}
	s := StatFS{Expansion: 1}
	for _, d := range c.see().routes.Disks {
		if d.Node == 0 {
			continue
		}
		s.Capacity += int64(d.Capacity)
		if d.Writable {
			s.Free += int64(d.Free)
		}
	}
	if n := len(p.Span); n > 0 && p.Span[n-1].Parity.D > 0 {
		k := p.Span[n-1].Parity
		s.Expansion = float64(k.Blocks()) / float64(k.D)
	}
	return s, nil
}
