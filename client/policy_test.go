package client_test

import "eggsfs/wire"

// policies are D+2 above small bytes, inline up to 64, with small cells.
func policies(d uint32, small uint64, cell uint32) *wire.Policies {
	return &wire.Policies{
		Span: &wire.SpanPolicy{Classes: []*wire.SpanClass{
			{MaxSize: small, D: 1, P: 2},
			{MaxSize: 256 << 10, D: d, P: 2},
		}},
		Stripe: &wire.StripePolicy{CellSize: cell},
		Inline: &wire.InlinePolicy{MaxSize: 64},
	}
}

func inline(n uint32) *wire.Policies {
	return &wire.Policies{Inline: &wire.InlinePolicy{MaxSize: n}}
}
