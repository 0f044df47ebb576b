package record

import (
	"bufio"
	"io"
	"math"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Machine describes the machine this process runs on, for a run on the given
// kind of backends. What the system does not tell stays empty and becomes
// "unknown" in the class.
func Machine(provider string) Env {
	e := Env{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version()}
	e.CPU = fileField("/proc/cpuinfo", "model name")
	e.MemBytes = kilobytes(fileField("/proc/meminfo", "MemTotal"))
	e.Kernel = firstLine("/proc/sys/kernel/osrelease")
	e.Class = Class(e, provider)
	return e
}

var notSlug = regexp.MustCompile(`[^a-z0-9.]+`)

// Class names the environment within which numbers compare: operating system,
// architecture, CPU model, cores, memory in whole steps (1 GiB up to 8 GiB, then
// 4 GiB), Go's minor version, and kind of backends. Kernel and exact memory are
// left out: they change under a machine's owner without changing its class.
func Class(e Env, provider string) string {
	parts := []string{
		e.OS, e.Arch, slug(e.CPU), strconv.Itoa(e.Cores) + "c",
		memoryStep(e.MemBytes), goMinor(e.Go), slug(provider),
	}
	return strings.Join(parts, "-")
}

func slug(s string) string {
	s = strings.NewReplacer("(r)", "", "(tm)", "").Replace(strings.ToLower(s))
	if s = strings.Trim(notSlug.ReplaceAllString(s, "."), "."); s == "" {
		return "unknown"
	}
	return s
}

func memoryStep(b int64) string {
	if b <= 0 {
		return "unknown"
	}
	gib, step := float64(b)/(1<<30), 1.0
	if gib > 8 {
		step = 4
	}
	return strconv.Itoa(int(math.Ceil(gib/step)*step)) + "g"
}

// goMinor cuts "go1.26.3 X:nojit" to "go1.26".
func goMinor(v string) string {
	v, _, _ = strings.Cut(v, " ")
	parts := strings.SplitN(v, ".", 3)
	if len(parts) < 2 {
		return slug(v)
	}
	return parts[0] + "." + parts[1]
}

func fileField(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return field(f, name)
}

// field finds "name : value" among lines.
func field(r io.Reader, name string) string {
	for s := bufio.NewScanner(r); s.Scan(); {
		k, v, ok := strings.Cut(s.Text(), ":")
		if ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func kilobytes(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(s, " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}
