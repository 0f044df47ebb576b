package complexity_test

import (
	"os"
	"testing"

	"qmtl.internal/plumbline/harness/complexity"
)

// The project keeps the rule that it enforces, tests included.
func TestModuleComplexityIsWithinTheLimit(t *testing.T) {
	funcs, err := complexity.Go(t.Context(), os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(funcs) < 100 {
		t.Fatalf("measured %d functions; is the root of the module still ../..?", len(funcs))
	}
	for _, f := range complexity.Over(funcs, complexity.Limit) {
		t.Errorf("%s:%d: %s has CC %d; split it, the limit is %d", f.File, f.Line, f.Name, f.CC, complexity.Limit)
	}
}
