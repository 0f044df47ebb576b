package cli

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness/complexity"
)

// explain is "plumbline complexity explain FUNC".
func (a *app) explain() *cobra.Command {
	return &cobra.Command{
		Use: "explain FUNC", Short: "say which places make a function complex: Name, Recv.Name or file.go:Name", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tree := os.DirFS(a.flags.source)
			funcs, err := complexity.Go(cmd.Context(), tree)
			if len(funcs) == 0 && err != nil {
				return usagef("%w", err)
			}
			all, err := complexity.Explain(tree, funcs, args[0])
			if err != nil {
				return usagef("%w", err)
			}
			var out bytes.Buffer
			for _, e := range all {
				explanation(&out, e)
			}
			_, err = a.Out.Write(out.Bytes())
			return err
		},
	}
}

func explanation(out *bytes.Buffer, e complexity.Explanation) {
	f := e.Func
	fmt.Fprintf(out, "%s:%d: %s: cyclomatic %d (%s), cognitive %d\n", f.File, f.Line, f.Name, f.CC, complexity.Rank(f.CC), f.Cognitive)
	fmt.Fprintf(out, "  cyclomatic: 1 for the function")
	for _, b := range e.Branches {
		fmt.Fprintf(out, "\n    +%d %s:%d:%d %s", b.By, f.File, b.Line, b.Col, b.What)
	}
	fmt.Fprintf(out, "\n  cognitive:")
	for _, b := range e.Burdens {
		fmt.Fprintf(out, "\n    +%d %s:%d:%d %s", b.By, f.File, b.Line, b.Col, b.What)
		if b.Nesting > 0 {
			fmt.Fprintf(out, ", %d of it for nesting", b.Nesting)
		}
	}
	fmt.Fprintln(out)
}
