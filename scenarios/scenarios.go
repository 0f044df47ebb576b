// Package scenarios holds the contract as data: the scenario files, one a
// file, and the JSON Schema that they keep. It embeds and does nothing else;
// package harness/scenario reads and runs them.
package scenarios

import "embed"

// Files holds every scenario below gateway/, dagmanager/, controlbus/,
// worldservice/, samples/, checklist/ and faults/.
//
//go:embed gateway/*.yaml dagmanager/*.yaml controlbus/*.yaml worldservice/*.yaml samples/*.yaml checklist/*.yaml faults/*.yaml
var Files embed.FS

// Schema is the published JSON Schema (draft 2020-12) of a scenario file.
//
//go:embed scenario.schema.json
var Schema []byte
