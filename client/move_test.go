package client_test

import (
	"bytes"
	"testing"

	"eggsfs/client"
	"eggsfs/client/clienttest"
	"eggsfs/eggs"
	"eggsfs/wire"
)

// TestBlocksMove: a reader that holds the addresses of blocks which migration
// has moved and erased asks where they are now, and reads on.
func TestBlocksMove(t *testing.T) {
	w, c := smallSpans(t, clienttest.Config{Disks: 4})
	want := content(200_000)
	id := put(t, c, eggs.Root, "f", want)
	r, err := c.Open(bg, id) // holds the addresses
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	scratch, err := c.Create(bg, eggs.Root, "scratch", client.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	whole := append(bytes.Clone(want), make([]byte, 256<<10-200_000)...)
	other := put(t, c, eggs.Root, "whole", whole) // a full span, as scratch's will be
	if _, err := scratch.Write(whole); err != nil {
		t.Fatal(err)
	}
	if _, err := scratch.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	r2, err := c.Open(bg, other)
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	spans, _, err := c.BlockSpans(bg, other, 0)
	if err != nil {
		t.Fatal(err)
	}
	var old []uint64
	for _, b := range spans[0].Blocks {
		old = append(old, b.Block)
	}
	for { // until the span has left the writer's memory it may not be certified
		_, err = c.Shard(bg, eggs.Root.Shard(), &wire.Verb{Verb: &wire.Verb_SwapSpan{
			SwapSpan: &wire.SwapSpan{
				File: uint64(other), Scratch: uint64(scratch.ID()),
				Cookie: w.Key.Cookie(scratch.ID()), Positions: []uint32{0, 1, 2, 3, 4, 5}, Old: old,
			},
		}})
		if err == nil {
			break
		}
		if k := eggs.KindOf(err); k != eggs.Conflict && k != eggs.NotExist {
			t.Fatal(err)
		}
		if _, err := scratch.ReadAt(make([]byte, 1), 0); err != nil {
			t.Fatal(err)
		}
	}
	scratch.Abort()
	if n, err := collectTransient(c, scratch.ID()); err != nil || n != 6 {
		t.Fatal(n, err)
	}
	got := make([]byte, len(whole))
	if _, err := r2.ReadAt(got, 0); err != nil || !bytes.Equal(got, whole) {
		t.Fatal("after the blocks have moved: ", err)
	}
	if _, err := r.ReadAt(got[:len(want)], 0); err != nil || !bytes.Equal(got[:len(want)], want) {
		t.Fatal(err)
	}
}

// collectTransient destroys a scrapped file of one span, as upkeep does.
func collectTransient(c *client.Client, id eggs.InodeID) (erased int, err error) {
	condemn := &wire.Verb{Verb: &wire.Verb_CondemnSpan{CondemnSpan: &wire.CondemnSpan{File: uint64(id)}}}
	var reply *wire.ShardReply
	for {
		reply, err = c.Shard(bg, id.Shard(), condemn)
		if eggs.KindOf(err) != eggs.Conflict { // the scrap may be on its way
			break
		}
	}
	if err != nil {
		return 0, err
	}
	for _, cert := range reply.Results[0].GetSpanCondemned().GetErase() {
		if _, err := c.EraseBlock(bg, cert); err != nil {
			return erased, err
		}
		erased++
	}
	return erased, nil
}
