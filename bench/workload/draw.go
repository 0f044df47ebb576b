package workload

// draw is a stream of numbers that seed, index and purpose fix on every
// machine and in every version (SplitMix64).
type draw struct{ state uint64 }

const golden = 0x9e3779b97f4a7c15

func drawFor(seed uint64, index int64, purpose uint64) draw {
	return draw{mix(mix(seed+purpose*golden) ^ uint64(index)*golden)}
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (d *draw) next() uint64 {
	d.state += golden
	return mix(d.state)
}

// below draws from 0 to n-1; n > 0 is small beside 2^64.
func (d *draw) below(n int) int { return int(d.next() % uint64(n)) }

// share draws from [0, 1).
func (d *draw) share() float64 { return float64(d.next()>>11) / (1 << 53) }
