package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness"
	"qmtl.internal/plumbline/harness/backend"
	"qmtl.internal/plumbline/harness/backend/containers"
)

// with is "plumbline with".
func (a *app) with() *cobra.Command {
	cmd := &cobra.Command{
		Use: "with [flags] -- PROGRAM [ARG…]", Short: "run a program beside Kafka, Redis and Neo4j that live as long as it does", Args: cobra.MinimumNArgs(1),
		Long: `Starts backends, runs the program, and stops them when it has ended; the exit code
is the program's. {kafka}, {redis} and {neo4j} in its arguments are replaced by the
addresses, and its environment has them as PLUMBLINE_TEST_KAFKA, …_REDIS and …_NEO4J.
Where there is no such server, as no Neo4j among embedded ones, the text is empty and
the variable is not set.`,
		Example: `  plumbline with --provider containers -- go test ./ref/dagmanager/...
  plumbline with -- bin/diffload bin/dagmanager --replication=1 --kafka={kafka} --neo4j={neo4j}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := parseImages(a.flags.images)
			if err != nil {
				return err
			}
			code, err := harness.With(cmd.Context(), harness.WithPlan{
				Provider: a.flags.provider,
				Backends: backend.Candidates{
					Containers: containers.Provider{Images: images},
					External:   backend.External{Kafka: a.flags.kafka, Redis: a.flags.redis, Neo4j: a.flags.neo4j},
				},
				Argv: args, In: os.Stdin, Out: a.Out, Err: a.Err,
				Log: a.logger(), Progress: newProgress(a.Err, a.Terminal).show,
			})
			if err == nil && code != 0 {
				return &exit{code: code, err: fmt.Errorf("%s: exit code %d", args[0], code), quiet: true}
			}
			return err
		},
	}
	a.flags.servers(cmd.Flags())
	return cmd
}
