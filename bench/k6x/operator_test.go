package k6x_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// testRun is the part of k6-operator's TestRun that our manifest uses, by the
// names of its CRD (k6.io/v1alpha1).
type testRun struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Parallelism int    `yaml:"parallelism"`
		Arguments   string `yaml:"arguments"`
		Script      struct {
			ConfigMap struct {
				Name string `yaml:"name"`
				File string `yaml:"file"`
			} `yaml:"configMap"`
		} `yaml:"script"`
		Runner struct {
			Image     string         `yaml:"image"`
			Env       []envVar       `yaml:"env"`
			Resources map[string]any `yaml:"resources"`
			Volumes   []struct {
				Name  string         `yaml:"name"`
				Claim map[string]any `yaml:"persistentVolumeClaim"`
			} `yaml:"volumes"`
			VolumeMounts []struct {
				Name string `yaml:"name"`
				Path string `yaml:"mountPath"`
			} `yaml:"volumeMounts"`
		} `yaml:"runner"`
	} `yaml:"spec"`
}

type envVar struct {
	Name      string         `yaml:"name"`
	Value     string         `yaml:"value"`
	ValueFrom map[string]any `yaml:"valueFrom"`
}

const manifest = "../operator/testrun.yaml"

func readManifest(t *testing.T) (text string, r testRun) {
	t.Helper()
	b, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalWithOptions(b, &r, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return string(b), r
}

// The manifest is what the operator reads, names files that there are, and gives
// every instance what an exact merge needs.
func TestManifestOfTheOperator(t *testing.T) {
	text, r := readManifest(t)
	if r.APIVersion != "k6.io/v1alpha1" || r.Kind != "TestRun" || r.Metadata.Name == "" || r.Spec.Runner.Image == "" {
		t.Errorf("%+v is no TestRun of k6.io/v1alpha1 with a name and an image", r)
	}
	env := map[string]envVar{}
	for _, v := range r.Spec.Runner.Env {
		env[v.Name] = v
	}
	if n := r.Spec.Parallelism; n < 2 || env["PLUMBLINE_INSTANCES"].Value != strconv.Itoa(n) {
		t.Errorf("%d instances, told %q", n, env["PLUMBLINE_INSTANCES"].Value)
	}
	checkEnv(t, text, env)
	checkFiles(t, text, r, env)
}

// checkEnv holds the variables against those that the script reads.
func checkEnv(t *testing.T, text string, env map[string]envVar) {
	t.Helper()
	script, err := os.ReadFile("../scripts/submit.js")
	if err != nil {
		t.Fatal(err)
	}
	for name := range env {
		if strings.HasPrefix(name, "PLUMBLINE_") && !strings.Contains(string(script), "__ENV."+name) {
			t.Errorf("%s is set, but submit.js does not read it", name)
		}
	}
	for _, name := range []string{"PLUMBLINE_RUN_ID", "PLUMBLINE_START_AT"} { // set when the manifest is applied
		placeholder := strings.TrimPrefix(name, "PLUMBLINE_")
		if env[name].Value != placeholder || !strings.Contains(text, "s/"+placeholder+"/") {
			t.Errorf("%s is %q; want the placeholder %s, and how to replace it", name, env[name].Value, placeholder)
		}
	}
	if env["POD_NAME"].ValueFrom == nil || !strings.Contains(env["PLUMBLINE_OUT"].Value, "$(POD_NAME)") {
		t.Errorf("PLUMBLINE_OUT is %q; want a folder for each instance", env["PLUMBLINE_OUT"].Value)
	}
}

// checkFiles looks for the script, the profile and the volume.
func checkFiles(t *testing.T, text string, r testRun, env map[string]envVar) {
	t.Helper()
	for _, file := range []string{"bench/scripts/" + r.Spec.Script.ConfigMap.File, "bench/profiles/" + filepath.Base(env["PLUMBLINE_PROFILE"].Value)} {
		if _, err := os.Stat("../../" + file); err != nil || !strings.Contains(text, "="+file) {
			t.Errorf("%s: %v; want it there, and in the command that makes the ConfigMap", file, err)
		}
	}
	mounts := r.Spec.Runner.VolumeMounts
	if len(mounts) != 1 || len(r.Spec.Runner.Volumes) != 1 || mounts[0].Name != r.Spec.Runner.Volumes[0].Name ||
		!strings.HasPrefix(env["PLUMBLINE_OUT"].Value, mounts[0].Path+"/") {
		t.Errorf("PLUMBLINE_OUT %q lies on none of the volumes %+v", env["PLUMBLINE_OUT"].Value, mounts)
	}
}
