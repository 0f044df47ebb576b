package topics

import (
	"errors"
	"fmt"
)

// The ways in which a broker fails, for errors.Is.
var (
	ErrUnavailable = errors.New("the broker is unavailable")
	ErrTimeout     = errors.New("the broker did not answer in time")
	ErrLogin       = errors.New("the broker refuses our user")
	ErrInUse       = errors.New("somebody is making it")
	ErrOpen        = errors.New("circuit open: the broker failed repeatedly and is left alone for a moment")
)

// NameError says that no topic of that name can exist.
type NameError struct{ Err error }

func (e *NameError) Error() string { return e.Err.Error() }
func (e *NameError) Unwrap() error { return e.Err }

// RefusedError says that the broker answered, and would not do it.
type RefusedError struct {
	Topic string
	Hint  string // how to mend it; may be empty
	Err   error
}

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("topic %s: the broker refused: %v", e.Topic, e.Err)
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

func (e *RefusedError) Unwrap() error { return e.Err }

// BusyError says that the broker wants to be asked about a topic again later.
// It is ErrUnavailable.
type BusyError struct {
	Topic string
	Err   error
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("topic %s: the broker is busy: %v", e.Topic, e.Err)
}
func (e *BusyError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }
