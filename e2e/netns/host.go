package netns

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Host is one network namespace on the switch, or this machine itself (see
// Local).
type Host struct {
	Name string
	Addr string // IPv4 address
	Dir  string // for its data and logs

	ns, sw, port string // all empty for Local

	mu    sync.Mutex
	procs []*Process // guarded by mu
}

// Local is this machine under the name of a host: the same handles for its
// processes, without a namespace, a root or a shape. dir is for its data and
// logs. Call Close at the end.
func Local(name, dir string) (*Host, error) {
	h := &Host{Name: name, Addr: "127.0.0.1", Dir: filepath.Join(dir, name)}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// Namespaced reports whether the host has a network of its own.
func (h *Host) Namespaced() bool { return h.ns != "" }

// Close kills what was started on the host.
func (h *Host) Close() {
	h.mu.Lock()
	procs := slices.Clone(h.procs)
	h.mu.Unlock()
	for _, p := range procs {
		p.Kill()
	}
}

// Shape sets the rates of the host's link from now on.
func (h *Host) Shape(ctx context.Context, link Link) error {
	if err := shape(ctx, h.ns, "eth0", link.UpMbit); err != nil {
		return fmt.Errorf("shape %s upwards: %w", h.Name, err)
	}
	if err := shape(ctx, h.sw, h.port, link.DownMbit); err != nil {
		return fmt.Errorf("shape %s downwards: %w", h.Name, err)
	}
	return nil
}

// shape puts a token bucket on what the device sends. The queue holds 50 ms
// of traffic, which is about what a switch port holds.
func shape(ctx context.Context, ns, dev string, mbit float64) error {
	if mbit <= 0 {
		_ = command(ctx, "tc", "-n", ns, "qdisc", "del", "dev", dev, "root") // there may be none
		return nil
	}
	return command(ctx, "tc", "-n", ns, "qdisc", "replace", "dev", dev, "root",
		"tbf", "rate", fmt.Sprintf("%.0fkbit", mbit*1000), "burst", "64kb", "latency", "50ms")
}

// settle fixes what would else be the machine's own ways. Reno is the control of
// congestion that every kernel lets a namespace have and that is near to the
// usual one on short paths; BBR, where a machine has it for its default, takes
// a veth pair for a link of gigabits, fills the bucket's queue and costs a
// timer for each packet. And TCP hands down 32 segments at a time, where it
// would hand down a millisecond's worth, which on these links is two: all
// hosts' packets cost the same few processors here, what real hosts leave to
// their network cards and switches. The shape stays what it is, since the
// bucket counts each segment with its headers.
func (h *Host) settle(ctx context.Context) error {
	_, err := h.Run(ctx, "sysctl", "-q", "-w", "net.ipv4.tcp_congestion_control=reno", "net.ipv4.tcp_min_tso_segs=32")
	return err
}

// Cut takes the host off the network; Join puts it back.
func (h *Host) Cut(ctx context.Context) error {
	return ip(ctx, "-n", h.sw, "link", "set", h.port, "down")
}

// Join undoes Cut.
func (h *Host) Join(ctx context.Context) error {
	return ip(ctx, "-n", h.sw, "link", "set", h.port, "up")
}

// Traffic is what went over the host's link since it was made, in bytes with
// Ethernet headers.
type Traffic struct{ Sent, Received int64 }

// Traffic reads the counters of the host's port.
func (h *Host) Traffic(ctx context.Context) (Traffic, error) {
	all, err := traffic(ctx, h.sw)
	if err != nil {
		return Traffic{}, fmt.Errorf("counters of %s: %w", h.Name, err)
	}
	return all[h.port], nil
}

// Traffic reads the counters of every host at once, by host name.
func (n *Net) Traffic(ctx context.Context) (map[string]Traffic, error) {
	all, err := traffic(ctx, n.prefix+"switch")
	if err != nil {
		return nil, fmt.Errorf("counters of the switch: %w", err)
	}
	out := map[string]Traffic{}
	for _, h := range n.Hosts() {
		out[h.Name] = all[h.port]
	}
	return out, nil
}

// traffic is by port; what the port receives is what the host sent.
func traffic(ctx context.Context, sw string) (map[string]Traffic, error) {
	raw, err := exec.CommandContext(ctx, "ip", "-n", sw, "-s", "-j", "link", "show").Output()
	if err != nil {
		return nil, err
	}
	type counter struct{ Bytes int64 }
	var links []struct {
		Ifname  string
		Stats64 struct{ Rx, Tx counter }
	}
	if err := json.Unmarshal(raw, &links); err != nil {
		return nil, err
	}
	out := map[string]Traffic{}
	for _, l := range links {
		out[l.Ifname] = Traffic{Sent: l.Stats64.Rx.Bytes, Received: l.Stats64.Tx.Bytes}
	}
	return out, nil
}

// Command prepares a command that will run on the host.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	if h.ns == "" {
		return exec.CommandContext(ctx, argv[0], argv[1:]...)
	}
	// Not "ip netns exec": that mounts /sys anew and hides the cgroups which
	// container engines need.
	args := append([]string{"--net=/run/netns/" + h.ns, "--"}, argv...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// Run runs a command on the host to its end and returns what it printed, both
// streams together.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	out, err := h.Command(ctx, argv...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("on %s: %q: %w\n%s", h.Name, argv, err, out)
	}
	return string(out), nil
}

// DialContext opens a connection from the host; addr must be an IP address
// and port. It is made for http.Transport.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := h.inside(func() error {
		var err error
		// Without a delay, and for a single address, the socket is made on
		// the calling thread.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen opens a listener on the host, for a fake server inside the test.
func (h *Host) Listen(ctx context.Context, addr string) (net.Listener, error) {
	var l net.Listener
	err := h.inside(func() error {
		var err error
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		return err
	})
	return l, err
}

// inside calls f on a thread that stands in the host's namespace. Sockets
// stay in the namespace where they were made, the thread does not.
func (h *Host) inside(f func() error) error {
	if h.ns == "" {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", h.Name, err)
	}
	defer home.Close()
	there, err := os.Open(filepath.Join("/run/netns", h.ns))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", h.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", h.Name, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and dies with its goroutine.
		return errors.Join(err, fmt.Errorf("leave %s: %w", h.Name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// HTTP is a client that speaks from the host. It takes any certificate: what
// is tested here is not TLS, and the tests of TLS bring their own client.
func (h *Host) HTTP() *http.Client { return &http.Client{Transport: h.Transport()} }

// Transport is that of HTTP.
func (h *Host) Transport() *http.Transport {
	return &http.Transport{
		DialContext:        h.DialContext,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		DisableCompression: true,
	}
}

func (h *Host) track(p *Process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.procs = append(h.procs, p)
}
