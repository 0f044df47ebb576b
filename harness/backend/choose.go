package backend

import (
	"context"
	"fmt"
)

// Candidates are the providers that Choose may pick from.
type Candidates struct {
	Embedded Embedded
	// Containers is nil where the binary has none.
	Containers ContainerProvider
	External   External
}

// ContainerProvider is a Provider that can tell beforehand whether it would
// work on this machine.
type ContainerProvider interface {
	Provider
	// Available returns what was found, e.g. "Docker 20.10.24 answers and the
	// three images are here", or an error that says what is missing.
	Available(ctx context.Context) (found string, err error)
}

// Choose picks a provider: want is auto, embedded, containers or external.
// auto takes containers where they are available and embedded otherwise; it
// never takes external. The reason is one line for people.
func Choose(ctx context.Context, want string, c Candidates) (p Provider, kind, reason string, err error) {
	switch want {
	case KindEmbedded:
		return because{c.Embedded, "asked for"}, KindEmbedded, "asked for", nil
	case KindExternal:
		return because{c.External, "asked for"}, KindExternal, "asked for", nil
	case KindContainers:
		return chooseContainers(ctx, c)
	case KindAuto, "":
		return chooseAuto(ctx, c)
	}
	return nil, "", "", usagef("provider %q: want auto, embedded, containers or external", want)
}

func chooseContainers(ctx context.Context, c Candidates) (Provider, string, string, error) {
	found, err := available(ctx, c)
	if err != nil {
		return nil, "", "", fmt.Errorf("provider containers: %w; mend that, or ask for the provider embedded", err)
	}
	reason := "asked for; " + found
	return because{c.Containers, reason}, KindContainers, reason, nil
}

func chooseAuto(ctx context.Context, c Candidates) (Provider, string, string, error) {
	found, err := available(ctx, c)
	if err != nil {
		reason := "containers cannot serve: " + oneLine(err)
		return because{c.Embedded, reason}, KindEmbedded, reason, nil
	}
	return because{c.Containers, found}, KindContainers, found, nil
}

func available(ctx context.Context, c Candidates) (string, error) {
	if c.Containers == nil {
		return "", fmt.Errorf("this binary has no containers in it")
	}
	return c.Containers.Available(ctx)
}

// because notes in the Set why its kind was chosen.
type because struct {
	Provider
	reason string
}

func (b because) Start(ctx context.Context, o Options) (*Set, error) {
	s, err := b.Provider.Start(ctx, o)
	if s != nil {
		s.Reason = b.reason
	}
	return s, err
}
