package cli

import (
	"fmt"
	"runtime/debug"
)

// buildVersion says which revision this program was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "plumbline, built without module information"
	}
	set := map[string]string{}
	for _, s := range info.Settings {
		set[s.Key] = s.Value
	}
	revision := set["vcs.revision"]
	if revision == "" {
		revision = "of no known revision"
	}
	if set["vcs.modified"] == "true" {
		revision += ", modified"
	}
	return fmt.Sprintf("plumbline %s, %s %s/%s", revision, info.GoVersion, set["GOOS"], set["GOARCH"])
}
