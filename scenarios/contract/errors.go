package contract

import "errors"

// ErrDAG is wrapped by errors that say why a submitted DAG cannot be used.
var ErrDAG = errors.New("dag")
