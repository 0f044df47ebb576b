//go:build !linux

package probe

func processCPU(pid int) (float64, error) { return procCPU(pid) }
