package containers

import "context"

// Examined is what Docker looks like from here.
type Examined struct {
	Host    string // of the daemon
	Version string
	Err     error // why it cannot be used; the rest is then empty
	Images  []ExaminedImage
}

// ExaminedImage is the image that a start would take for one server.
type ExaminedImage struct {
	Server string
	Name   string // "" where none can be had
	Here   bool   // else it would be pulled
	Err    error  // why none can be had, and how to mend it
}

// Examine looks at the daemon and at each image. It starts and pulls nothing.
func (p Provider) Examine(ctx context.Context) Examined {
	names, err := p.names()
	if err != nil {
		return Examined{Err: err}
	}
	d, err := connect(ctx, p.getenv())
	if err != nil {
		return Examined{Err: err}
	}
	defer d.Close()
	e := Examined{Host: d.host, Version: d.version}
	for _, s := range servers() {
		i, err := d.choose(ctx, s.name, names)
		e.Images = append(e.Images, ExaminedImage{Server: s.name, Name: i.name, Here: i.here, Err: err})
	}
	return e
}
