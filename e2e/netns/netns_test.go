package netns

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func newNet(t *testing.T) *Net {
	t.Helper()
	if err := Missing(); err != nil {
		t.Skip("NOT RUN:", err)
	}
	n, err := New(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func addHost(t *testing.T, n *Net, name string, link Link) *Host {
	t.Helper()
	h, err := n.AddHost(t.Context(), name, link)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestShapedLink moves bytes between two hosts and sees that the slower of
// the two links sets the pace and that the counters saw the bytes.
func TestShapedLink(t *testing.T) {
	n := newNet(t)
	const mbit, size = 80, 4 << 20
	server := addHost(t, n, "server", Link{UpMbit: mbit, DownMbit: mbit})
	client := addHost(t, n, "client", Link{})
	l, err := server.Listen(t.Context(), server.Addr+":80")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(make([]byte, size))
	})}
	go web.Serve(l)
	t.Cleanup(func() { web.Close() })

	began := time.Now()
	resp, err := client.HTTP().Get("http://" + server.Addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.Copy(io.Discard, resp.Body); got != size || err != nil {
		t.Fatalf("read %d bytes, %v", got, err)
	}
	ideal := float64(size) * 8 / (mbit * 1e6)
	if took := time.Since(began).Seconds(); took < 0.9*ideal {
		t.Errorf("%d bytes took %.2f s: the link of %d Mbit/s was not shaped", size, took, mbit)
	}
	all, err := n.Traffic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if all["server"].Sent < size || all["client"].Received < size || all["client"].Sent > size/2 {
		t.Errorf("counters: %+v", all)
	}
}

func TestProcess(t *testing.T) {
	n := newNet(t)
	h := addHost(t, n, "one", Link{})
	p, err := h.Start(t.Context(), "talk", []string{"WORD=hello"}, "sh", "-c", "echo $WORD; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if u, err := p.Usage(); err != nil || u.RSSPeak == 0 {
		t.Errorf("usage: %+v, %v", u, err)
	}
	if err := p.Freeze(); err != nil {
		t.Error(err)
	}
	p.Kill()
	if err := p.Wait(t.Context()); err == nil {
		t.Error("killed, and Wait says it ended well")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	dead, err := h.Start(ctx, "dead", nil, "false")
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.WaitReady(ctx, h, "http://127.0.0.1:1/"); err == nil || !strings.Contains(err.Error(), "ended before") {
		t.Errorf("waiting for a dead process: %v", err)
	}
}

func TestSweepLeavesTheLivingAlone(t *testing.T) {
	n := newNet(t)
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("%s%d-1-left", namePrefix, gone.Process.Pid)
	if err := ip(t.Context(), "netns", "add", stale); err != nil {
		t.Fatal(err)
	}
	Sweep(t.Context())
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), stale) {
		t.Error("a dead run's namespace is still there")
	}
	if !strings.Contains(string(out), n.prefix+"switch") {
		t.Error("a living run's namespace was swept away")
	}
}

func TestParseMetrics(t *testing.T) {
	m, err := ParseMetrics(strings.NewReader(`# HELP x y
shoal_bytes_total{from="peer",id="a b"} 3
shoal_bytes_total{from="peer",id="c"} 4
shoal_bytes_total{from="seed"} 1.5e3
up 1
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Sum("shoal_bytes_total", `from="peer"`); got != 7 {
		t.Errorf("peers: %v", got)
	}
	if got := m.Sum("shoal_bytes_total"); got != 1507 || m.Sum("up") != 1 {
		t.Errorf("all: %v", got)
	}
	if _, err := ParseMetrics(strings.NewReader("x y\n")); err == nil {
		t.Error("a page that is no metrics page was read")
	}
}
