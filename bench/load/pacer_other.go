//go:build !linux

package load

// newPacer falls back on Go's timers; the lag in the result shows the price.
func newPacer() pacer { return &timerPacer{} }
