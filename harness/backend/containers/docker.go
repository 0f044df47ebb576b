package containers

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"
)

// docker is a daemon on this machine that answers.
type docker struct {
	*client.Client
	host    string // unix:// or tcp:// address
	version string
	// beside is the parent of the containers' control groups, "" for Docker's
	// own. That one weighs as much as a single thread of the SUT, so that all
	// servers together would get a tenth of a busy machine; "/" has each weighed
	// for itself. Where systemd keeps the groups, its slices see to that.
	beside string
}

// connect finds the daemon: where DOCKER_HOST says, else at the usual sockets.
func connect(ctx context.Context, getenv func(string) string) (*docker, error) {
	hosts, err := daemonHosts(getenv)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, host := range hosts {
		d, err := ping(ctx, host)
		if err == nil {
			return d, prepare(host)
		}
		errs = append(errs, err)
	}
	return nil, worst(errs)
}

// worst prefers an error that says more than that no daemon is there.
func worst(errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errs[0]
}

func daemonHosts(getenv func(string) string) ([]string, error) {
	if host := getenv("DOCKER_HOST"); host != "" {
		if !local(host) {
			return nil, usagef("DOCKER_HOST %s: is not on this machine, so its ports would not be on 127.0.0.1; unset it, or use the provider external", host)
		}
		return []string{host}, nil
	}
	hosts := []string{"unix:///var/run/docker.sock"}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		hosts = append(hosts, "unix://"+filepath.Join(dir, "docker.sock"))
	}
	if dir := getenv("HOME"); dir != "" {
		hosts = append(hosts, "unix://"+filepath.Join(dir, ".docker/run/docker.sock"))
	}
	return hosts, nil
}

func local(host string) bool {
	u, err := url.Parse(host)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "unix" || ip != nil && ip.IsLoopback()
}

func ping(ctx context.Context, host string) (*docker, error) {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	c, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, usagef("DOCKER_HOST %s: %w", host, err)
	}
	v, err := c.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return nil, errors.Join(explainPing(host, err), c.Close())
	}
	d := &docker{Client: c, host: host, version: v.Version}
	info, err := c.Info(ctx, client.InfoOptions{})
	if err != nil {
		return nil, errors.Join(explainPing(host, err), c.Close())
	}
	if info.Info.CgroupDriver == "cgroupfs" {
		d.beside = "/"
	}
	return d, nil
}

// explainPing says in one line what is wrong and how to mend it. Beyond what
// the client says, the socket itself tells whether it is there and ours.
func explainPing(host string, err error) error {
	socket, _ := strings.CutPrefix(host, "unix://")
	_, statErr := os.Stat(socket)
	switch {
	case errors.Is(statErr, fs.ErrNotExist):
		return fmt.Errorf("no Docker at %s (%w); install and start it", host, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission) || strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("no leave to use Docker at %s; add this user to the group docker, or run as one who may", host)
	}
	return fmt.Errorf("no answer of Docker at %s (%s); start its daemon", host, firstLine(err))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// preparing guards settings that testcontainers-go keeps for the whole process.
var preparing sync.Mutex

// prepare tells testcontainers-go what nobody should have to set by hand: use
// this daemon, reach containers on 127.0.0.1 even from within a container,
// start no reaper (its image may not be had, and our labels do its work), and
// print nothing.
func prepare(host string) error {
	preparing.Lock()
	defer preparing.Unlock()
	tclog.SetDefault(tclog.NewNoopLogger())
	return errors.Join(
		os.Setenv("DOCKER_HOST", host),
		os.Setenv("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1"),
		os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"),
	)
}

// recipeLabel marks the images that images/build.sh made.
const recipeLabel = "plumbline.recipe"

// image is the chosen image of a server.
type image struct {
	name  string
	here  bool // else it must be pulled
	local bool // made by images/build.sh, whatever its name
}

// choose takes the named image if there is one, else the local one if it is
// here, else the public one. One that is not here must be to be had.
func (d *docker) choose(ctx context.Context, server string, names Images) (image, error) {
	row := rowOf(server)
	if named := names[server]; named != "" {
		return d.look(ctx, server, named)
	}
	found, err := d.inspect(ctx, row.local)
	if err == nil {
		return found, nil
	}
	if !errdefs.IsNotFound(err) {
		return image{}, fmt.Errorf("%s: image %s: %w", server, row.local, err)
	}
	return d.look(ctx, server, row.public)
}

func rowOf(server string) defaults {
	for _, row := range table() {
		if row.server == server {
			return row
		}
	}
	return defaults{server: server}
}

func (d *docker) look(ctx context.Context, server, name string) (image, error) {
	found, err := d.inspect(ctx, name)
	if err == nil {
		return found, nil
	}
	if !errdefs.IsNotFound(err) {
		return image{}, fmt.Errorf("%s: image %s: %w", server, name, err)
	}
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if _, err := d.DistributionInspect(ctx, name, client.DistributionInspectOptions{}); err != nil {
		return image{}, fmt.Errorf("%s: image %s is not here and cannot be pulled (%s); make images builds one, and %s names another",
			server, name, firstLine(err), rowOf(server).env)
	}
	return image{name: name}, nil
}

func (d *docker) inspect(ctx context.Context, name string) (image, error) {
	got, err := d.ImageInspect(ctx, name)
	if err != nil {
		return image{}, err
	}
	found := image{name: name, here: true}
	if got.Config != nil {
		_, found.local = got.Config.Labels[recipeLabel]
	}
	return found, d.rightArch(ctx, name, got.Os+"/"+got.Architecture)
}

// rightArch refuses an image that this daemon could only emulate, or not run.
func (d *docker) rightArch(ctx context.Context, name, arch string) error {
	v, err := d.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return err
	}
	if want := v.Os + "/" + v.Arch; arch != want {
		return fmt.Errorf("is of %s, but this Docker runs %s; remove it and pull or build it anew", arch, want)
	}
	return nil
}

// pull gets an image that is not here, and tells its progress.
func (d *docker) pull(ctx context.Context, i image, log *slog.Logger) error {
	if i.here {
		return nil
	}
	log.Info("pulling image", "image", i.name)
	resp, err := d.ImagePull(ctx, i.name, client.ImagePullOptions{})
	if err != nil {
		return fmt.Errorf("pull %s: %w", i.name, err)
	}
	defer resp.Close()
	if err := resp.Wait(ctx); err != nil {
		return fmt.Errorf("pull %s: %w", i.name, err)
	}
	return nil
}

// create makes and starts a container through testcontainers-go; in.addr is
// bound to the server's port.
func create(ctx context.Context, in *instance, labels map[string]string) (id string, err error) {
	own := map[string]string{labelServer: in.name}
	for k, v := range labels {
		own[k] = v
	}
	_, hostPort, err := net.SplitHostPort(in.addr)
	if err != nil {
		return "", err
	}
	port, err := network.ParsePort(in.port)
	if err != nil {
		return "", err
	}
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		Started: true,
		Logger:  tclog.NewNoopLogger(),
		ContainerRequest: testcontainers.ContainerRequest{
			Image: in.image.name, Labels: own, ExposedPorts: []string{in.port},
			Entrypoint: in.entrypoint(), Env: in.env(in.image.local, in.told),
			HostConfigModifier: func(hc *container.HostConfig) {
				hc.Memory, hc.MemorySwap = in.memory, in.memory
				hc.CPUShares, hc.CgroupParent = in.weight, in.docker.beside
				hc.PortBindings = network.PortMap{port: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: hostPort}}}
			},
		},
	})
	if c != nil {
		id = c.GetContainerID()
	}
	return id, err
}

// summary is what sweeping and removing need of a container.
type summary struct {
	ID     string
	server string
	labels map[string]string
}

// list gives the containers, running or not, that bear all labels; a label
// with the value "" may have any.
func (d *docker) list(ctx context.Context, labels map[string]string) ([]summary, error) {
	filters := client.Filters{}
	for k, v := range labels {
		filters = filters.Add("label", strings.TrimSuffix(k+"="+v, "="))
	}
	found, err := d.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, err
	}
	var out []summary
	for _, c := range found.Items {
		out = append(out, summary{ID: c.ID, server: cmp.Or(c.Labels[labelServer], c.ID), labels: c.Labels})
	}
	return out, nil
}

// remove kills and removes a container with its volumes; one that is gone, or
// going, is fine.
func (d *docker) remove(ctx context.Context, id string) error {
	_, err := d.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("remove container %.12s: %w", id, err)
	}
	return nil
}

// log gives the last lines that a container wrote, "all" for all.
func (d *docker) log(ctx context.Context, id, lines string) ([]byte, error) {
	r, err := d.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: lines})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := stdcopy.StdCopy(&b, &b, r); err != nil && !errors.Is(err, io.EOF) {
		return b.Bytes(), err
	}
	return b.Bytes(), nil
}
