package cli

import (
	"encoding/json"
	"errors"

	"github.com/spf13/cobra"

	"qmtl.internal/plumbline/harness/backend/containers"
	"qmtl.internal/plumbline/harness/doctor"
	"qmtl.internal/plumbline/harness/verdict"
)

func (a *app) doctor() *cobra.Command {
	var format string
	var only bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "say what this machine can do, and how to mend what is missing", Args: cobra.NoArgs,
		Long: `Looks at Docker, images, cores, memory, disk, clock, cgroups, ports and programs,
measures for a second how late the load generator wakes, and says which backends
--provider takes and why. States: ok, poor (works, but worse than it could), bad
(the gate cannot run), info. Exit code 0: the gate can run; 3: it cannot.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// PLUMBLINE_FORMAT may hold formats of reports, which a table stands for.
			if _, err := parseFormats(format); err != nil && format != "text" {
				return usagef("--format %q: want text or json", format)
			}
			plan, err := a.flags.plan(verdict.StageContract)
			if err != nil {
				return err
			}
			images, err := parseImages(a.flags.images)
			if err != nil {
				return err
			}
			return a.showHealth(format, doctor.Examine(cmd.Context(), doctor.Options{
				Artifacts: a.flags.artifacts, Bin: a.flags.binDir, Provider: a.flags.provider, Backends: plan.Backends,
				Containers: containers.Provider{Images: images}, Getenv: a.Getenv, OnlyBackends: only,
			}))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&format, "format", "text", "how to show it: text or json")
	fs.BoolVar(&only, "only-backends", false, "look at Docker, images and the choice of backends only")
	fs.StringVar(&a.flags.provider, "provider", "auto", "backends to look for: auto, embedded, containers or external")
	fs.StringArrayVar(&a.flags.images, "image", nil, "image of a server: kafka=NAME, redis=NAME or neo4j=NAME")
	return cmd
}

func (a *app) showHealth(format string, r doctor.Report) error {
	show := func() error { return r.Write(a.Out) }
	if format == "json" {
		e := json.NewEncoder(a.Out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		show = func() error { return e.Encode(r) }
	}
	if err := show(); err != nil {
		return err
	}
	if r.CanRun {
		return nil
	}
	return &exit{code: verdict.ExitBroken, err: errors.New("the gate cannot run here"), quiet: true}
}
