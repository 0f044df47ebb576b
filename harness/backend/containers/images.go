package containers

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"qmtl.internal/plumbline/harness/backend"
)

// Images names an image by server: kafka, redis, neo4j. An absent or empty
// name leaves the choice to a source of lower rank.
type Images map[string]string

// EnvPrefix begins the environment variables that name images, such as
// PLUMBLINE_IMAGE_KAFKA.
const EnvPrefix = "PLUMBLINE_IMAGE_"

// defaults is one row of the table of images.
type defaults struct {
	server string
	env    string
	local  string // built by images/build.sh; taken when it is here
	public string // pulled otherwise
}

// table holds the image of every server, all versions pinned. The local names
// follow images/versions.env.
func table() []defaults {
	return []defaults{
		{"kafka", EnvPrefix + "KAFKA", "plumbline/kafka:4.2.2", "apache/kafka:4.2.2"},
		{"redis", EnvPrefix + "REDIS", "plumbline/redis:7.0.15", "redis:7.0.15"},
		{"neo4j", EnvPrefix + "NEO4J", "plumbline/neo4j:5.26.30", "neo4j:5.26.30"},
	}
}

// names joins the overrides: the provider's own win over the environment, that
// over the file.
func (p Provider) names() (Images, error) {
	file, err := readImageFile(p.ImageFile)
	if err != nil {
		return nil, err
	}
	known, out := map[string]bool{}, Images{}
	for _, row := range table() {
		known[row.server] = true
		if name := cmp.Or(p.Images[row.server], p.getenv()(row.env), file[row.server]); name != "" {
			out[row.server] = name
		}
	}
	for server := range p.Images {
		if !known[server] {
			return nil, usagef("image of %q: no such server; want kafka, redis or neo4j", server)
		}
	}
	return out, nil
}

// readImageFile is strict: a misspelt server is an error.
func readImageFile(file string) (Images, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("file of images: %w", err)
	}
	var in struct {
		Kafka string `yaml:"kafka"`
		Redis string `yaml:"redis"`
		Neo4j string `yaml:"neo4j"`
	}
	if err := yaml.UnmarshalWithOptions(b, &in, yaml.Strict()); err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			p := at.GetToken().Position
			return nil, usagef("%s:%d:%d: %s; want kafka, redis and neo4j, each with the name of an image", file, p.Line, p.Column, at.GetMessage())
		}
		return nil, usagef("%s: %w", file, err)
	}
	return Images{"kafka": in.Kafka, "redis": in.Redis, "neo4j": in.Neo4j}, nil
}

// usageError is a backend.ErrUsage whose text is its own.
type usageError struct{ error }

func (e usageError) Is(target error) bool { return target == backend.ErrUsage }
func (e usageError) Unwrap() error        { return e.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }
