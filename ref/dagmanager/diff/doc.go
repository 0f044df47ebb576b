// Package diff decides, for a submitted DAG, which nodes have a queue already
// and which are new, and gives the new ones theirs.
//
// It is a function of an ExecutionContext value and of two small ports: the
// graph store and the broker's topics. It reads no clock and no environment.
package diff
