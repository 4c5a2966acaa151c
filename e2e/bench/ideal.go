package main

// ideal is T*, the fluid bound in seconds: no way of moving size bytes from
// one seed to n hosts is faster. Rates are in bytes a second. A cold blob
// also has to come through the upstream's link first (upstream 0: it is
// there already); in the fluid limit the two overlap.
func ideal(size int64, n int, seedUp, hostUp, hostDown, upstream float64) float64 {
	f := float64(size)
	bound := max(f/seedUp, f/hostDown, float64(n)*f/(seedUp+float64(n)*hostUp))
	if upstream > 0 {
		bound = max(bound, f/upstream)
	}
	return bound
}

// bytesPerSecond of a link.
func bytesPerSecond(mbit float64) float64 { return mbit * 1e6 / 8 }
