package k6x

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"go.k6.io/k6/cmd/state"

	"qmtl.internal/plumbline/bench/load"
	"qmtl.internal/plumbline/bench/turns"
)

// turnsCommand is "k6 x plumbline-turns": the generator of a paired comparison.
const turnsCommand = "plumbline-turns"

func newTurnsCommand(g *state.GlobalState) *cobra.Command {
	var profile, rate string
	c := &cobra.Command{
		Use:   turnsCommand + " --profile FILE",
		Short: "Offer load to two SUTs that take turns, as told on standard input",
		Long: "Reads commands on standard input, one JSON value a line, and answers each with one line:\n" +
			`  {"open":{"targets":["http://…","http://…"],"seed":1,"tag":"r1"}}` + "\n" +
			`  {"offer":{"slots":"0110","slot_ns":100000000}}` + "\n" +
			"Every slot of the answer carries its ledger and an HDR histogram a class. Ends with its input.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if profile == "" {
				return errors.New("--profile: give the path of a load profile, like bench/profiles/smoke.json")
			}
			p, err := load.ReadProfile(profile)
			if err != nil {
				return err
			}
			p, err = p.WithEnv(func(name string) (string, bool) {
				v := map[string]string{"PLUMBLINE_RATE": rate}[name]
				return v, v != ""
			})
			if err != nil {
				return fmt.Errorf("--rate: %w", err)
			}
			return turns.Serve(c.Context(), p, g.Stdin, g.Stdout)
		},
	}
	c.Flags().StringVar(&profile, "profile", "", "file of the load profile: rate, mix, limits")
	c.Flags().StringVar(&rate, "rate", "", "requests per second, instead of the profile's")
	return c
}
