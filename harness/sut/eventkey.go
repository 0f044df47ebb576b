package sut

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
)

// eventKID names the key of the harness in key sets of the SUT.
const eventKID = "plumbline"

// eventKey is a key pair of one run, under which scenarios sign event tokens of
// their own: expired ones, for another audience, and good ones beside those.
// It is made anew at each start and written nowhere.
type eventKey struct{ private ed25519.PrivateKey }

func newEventKey() (eventKey, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return eventKey{}, fmt.Errorf("sut: event key: %w", err)
	}
	return eventKey{private}, nil
}

// trust is what ${run.event_trust} gives: kid and public key.
func (k eventKey) trust() string {
	public, _ := k.private.Public().(ed25519.PublicKey)
	return eventKID + "=" + base64.RawURLEncoding.EncodeToString(public)
}

// EventKey is the key under which the harness may sign event tokens, where the
// argv of a process hands it on as ${run.event_trust}; else nil.
func (in *Instance) EventKey() (kid string, key ed25519.PrivateKey) {
	return eventKID, in.events.private
}

// of is the key where d hands it to a process; else none.
func (k eventKey) of(d Descriptor) eventKey {
	for _, p := range d.Processes {
		for _, arg := range p.Argv {
			if strings.Contains(arg, "${run.event_trust}") {
				return k
			}
		}
	}
	return eventKey{}
}
