package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	"github.com/shoalproject/shoal/e2e/netns"
	"github.com/shoalproject/shoal/e2e/runtimes"
)

var engines = []string{"containerd", "ctr", "runc", "dockerd", "docker", "skopeo"}

// TestRealClients pushes with docker and with skopeo, and pulls and runs with
// containerd 1.6, containerd 2.4, Docker, skopeo and go-containerregistry, by
// tag and by digest, all through the agents' mirrors.
func TestRealClients(t *testing.T) {
	two, err := runtimes.Containerd2()
	if err != nil {
		t.Skip("NOT RUN:", err)
	}
	h := build(t, plan{hosts: 8, commands: engines})
	docker := startDocker(h, h.agents[6].Host)
	pushed := map[string]string{ // repository → the line that it prints
		"demo/by-docker": pushWithDocker(h, docker),
		"demo/by-skopeo": pushWithSkopeo(h),
	}
	var wait sync.WaitGroup
	for i, a := range h.agents[:6] {
		bin := ""
		if i >= 3 {
			bin = two
		}
		wait.Go(func() { useContainerd(h, a, bin, pushed) })
	}
	wait.Go(func() { useDocker(h, docker, h.agents[6], pushed) })
	wait.Go(func() { useSkopeo(h, h.agents[7]); useLibrary(h, h.agents[7]) })
	wait.Wait()
	for _, a := range h.agents[:7] {
		// What falls back to the registry passes the agent by.
		peers, supernode, upstream := h.bytesBySource(a)
		t.Logf("%s: %.0f bytes from peers, %.0f from the supernode, %.0f from upstream", a.Host.Name, peers, supernode, upstream)
		if peers+supernode == 0 {
			t.Errorf("%s fetched nothing: its client went round the mirror", a.Host.Name)
		}
	}
}

func startDocker(h *house, host *netns.Host) *runtimes.Docker {
	h.t.Helper()
	d, err := runtimes.StartDocker(h.ctx, host)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := d.Login(h.ctx, h.supernode.Addr, cluster.AdminUser, h.supernode.Password); err != nil {
		h.t.Fatal(err)
	}
	return d
}

func pushWithDocker(h *house, d *runtimes.Docker) string {
	h.t.Helper()
	const line = "pushed by docker"
	ref := h.supernode.Ref("demo/by-docker", "v1")
	archive := filepath.Join(h.dir, "by-docker.tar")
	img := makeImage(h.t, image.Spec{Line: line, Layers: []int64{3 << 20}, Seed: 31})
	if err := image.WriteArchive(archive, ref, img); err != nil {
		h.t.Fatal(err)
	}
	for _, args := range [][]string{{"load", "--input", archive}, {"push", ref}, {"rmi", ref}} {
		if _, err := d.Run(h.ctx, args...); err != nil {
			h.t.Fatal(err)
		}
	}
	return line
}

func pushWithSkopeo(h *house) string {
	h.t.Helper()
	const line = "pushed by skopeo"
	layout := filepath.Join(h.dir, "by-skopeo")
	index, err := image.Index(h.ctx, image.Spec{Line: line, Layers: []int64{5 << 20}, Seed: 32}, "amd64", "arm64")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := image.WriteIndexLayout(layout, "v1", index); err != nil {
		h.t.Fatal(err)
	}
	_, err = h.supernode.Host.Run(h.ctx, "skopeo", "copy", "--all", "--insecure-policy", "--dest-tls-verify=false",
		"--dest-creds", cluster.AdminUser+":"+h.supernode.Password,
		"oci:"+layout+":v1", "docker://"+h.supernode.Ref("demo/by-skopeo", "v1"))
	if err != nil {
		h.t.Fatal(err)
	}
	return line
}

// useContainerd pulls by tag and by digest through the mirror and runs both.
func useContainerd(h *house, a *cluster.Agent, bin string, pushed map[string]string) {
	t := h.t
	c, err := runtimes.StartContainerd(h.ctx, a.Host, bin)
	if err != nil {
		t.Error(err)
		return
	}
	if err := c.UseMirror(a.Mirror); err != nil {
		t.Error(err)
		return
	}
	user := cluster.AdminUser + ":" + h.supernode.Password
	for repository, line := range pushed {
		digest, err := digestOf(h, repository)
		if err != nil {
			t.Error(err)
			return
		}
		for _, reference := range []string{"v1", digest} {
			ref := h.supernode.Ref(repository, reference)
			if err := c.Pull(h.ctx, ref, user); err != nil {
				t.Error(err)
				continue
			}
			if out, err := c.Run(h.ctx, ref); err != nil || !strings.Contains(out, line) {
				t.Errorf("%s ran %s: %q, %v", a.Host.Name, ref, out, err)
			}
		}
	}
}

// useDocker pulls from the mirror as if it were the registry.
func useDocker(h *house, d *runtimes.Docker, a *cluster.Agent, pushed map[string]string) {
	t := h.t
	mirror := strings.TrimPrefix(a.Mirror, "http://")
	if err := d.Login(h.ctx, mirror, cluster.AdminUser, h.supernode.Password); err != nil {
		t.Error(err)
		return
	}
	for repository, line := range pushed {
		digest, err := digestOf(h, repository)
		if err != nil {
			t.Error(err)
			return
		}
		for _, ref := range []string{mirror + "/" + repository + ":v1", mirror + "/" + repository + "@" + digest} {
			if _, err := d.Run(h.ctx, "pull", ref); err != nil {
				t.Error(err)
				continue
			}
			if out, err := d.Run(h.ctx, "run", "--rm", "--network", "none", ref); err != nil || !strings.Contains(out, line) {
				t.Errorf("docker ran %s: %q, %v", ref, out, err)
			}
		}
	}
}

// useSkopeo copies a multi-arch image, all of it, through the mirror.
func useSkopeo(h *house, a *cluster.Agent) {
	to := filepath.Join(a.Host.Dir, "skopeo")
	_, err := a.Host.Run(h.ctx, "skopeo", "copy", "--all", "--insecure-policy", "--src-tls-verify=false",
		"--src-creds", cluster.AdminUser+":"+h.supernode.Password,
		"docker://"+strings.TrimPrefix(a.Mirror, "http://")+"/demo/by-skopeo:v1", "oci:"+to+":v1")
	if err != nil {
		h.t.Error(err)
	}
}

// useLibrary pulls and validates with go-containerregistry.
func useLibrary(h *house, a *cluster.Agent) {
	ref, err := name.ParseReference(strings.TrimPrefix(a.Mirror, "http://")+"/demo/by-docker:v1", name.Insecure)
	if err != nil {
		h.t.Error(err)
		return
	}
	img, err := remote.Image(ref, remote.WithContext(h.ctx), remote.WithTransport(a.Host.Transport()), login(h))
	if err != nil {
		h.t.Error(err)
		return
	}
	if err := validate.Image(img); err != nil {
		h.t.Error(err)
	}
}

// digestOf asks the supernode what the tag v1 is.
func digestOf(h *house, repository string) (string, error) {
	ref, err := name.ParseReference(h.supernode.Ref(repository, "v1"))
	if err != nil {
		return "", err
	}
	d, err := remote.Head(ref, remote.WithContext(h.ctx), remote.WithTransport(h.supernode.Host.Transport()), login(h))
	if err != nil {
		return "", fmt.Errorf("what is %s: %w", ref, err)
	}
	return d.Digest.String(), nil
}

// TestBigLayer moves a layer of a gigabyte into real containerds, and no
// agent grows with it.
func TestBigLayer(t *testing.T) {
	two, err := runtimes.Containerd2()
	if err != nil {
		t.Skip("NOT RUN:", err)
	}
	h := build(t, plan{hosts: 3, commands: engines})
	img := h.push("demo/big", "v1", image.Spec{Line: "big", Layers: []int64{1 << 30}, Seed: 33})
	size := sizeOf(t, img)
	ref := h.supernode.Ref("demo/big", "v1")
	before := h.traffic()
	var wait sync.WaitGroup
	for i, a := range h.agents {
		bin := map[bool]string{true: two}[i > 0]
		wait.Go(func() {
			c, err := runtimes.StartContainerd(h.ctx, a.Host, bin)
			if err == nil {
				err = c.UseMirror(a.Mirror)
			}
			if err == nil {
				err = c.Pull(h.ctx, ref, cluster.AdminUser+":"+h.supernode.Password)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if out, err := c.Run(h.ctx, ref); err != nil || !strings.Contains(out, "big") {
				t.Errorf("%s ran %s: %q, %v", a.Host.Name, ref, out, err)
			}
		})
	}
	wait.Wait()
	for name, now := range h.traffic() {
		t.Logf("%s sent %.2f and received %.2f images", name,
			float64(now.Sent-before[name].Sent)/float64(size), float64(now.Received-before[name].Received)/float64(size))
	}
	for _, a := range h.agents {
		u, err := a.Usage()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: peak of %d MiB resident", a.Host.Name, u.RSSPeak>>20)
		if u.RSSPeak > 64<<20 {
			t.Errorf("%s: %d MiB resident for a pull that streams", a.Host.Name, u.RSSPeak>>20)
		}
	}
}

// TestPullReport: dfget says where each byte came from, and the sum is the
// image.
func TestPullReport(t *testing.T) {
	h := build(t, plan{hosts: 2})
	img := h.push("demo/app", "v1", image.Spec{Layers: []int64{4 << 20}, Seed: 34, NoProgram: true})
	for _, a := range h.agents {
		if _, err := h.pull(h.ctx, a, order{repository: "demo/app", reference: "v1"}); err != nil {
			t.Fatal(err)
		}
		report, err := a.PullReport(h.ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		var sum int64
		for _, n := range report.BySource() {
			sum += n
		}
		if want := sizeOf(t, img); sum < want*99/100 || sum > want*101/100 {
			t.Errorf("%s reports %d bytes by source (%v), want %d", a.Host.Name, sum, report.BySource(), want)
		}
	}
	fetchWithDfget(h, h.agents[0], img)
}

// fetchWithDfget fetches the image once more, as an OCI layout.
func fetchWithDfget(h *house, a *cluster.Agent, img v1.Image) {
	t := h.t
	out := filepath.Join(a.Host.Dir, "fetched")
	home := "HOME=" + a.Host.Dir
	login := a.Host.Command(h.ctx, "env", home, filepath.Join(h.bin, "dfget"), "login", "-u", cluster.AdminUser, "--password-stdin", a.Mirror)
	login.Stdin = strings.NewReader(h.supernode.Password)
	if text, err := login.CombinedOutput(); err != nil {
		t.Errorf("dfget login: %v: %s", err, text)
		return
	}
	text, err := a.Host.Run(h.ctx, "env", home, filepath.Join(h.bin, "dfget"), "--agent", filepath.Join(a.Data, "agent.sock"), "demo/app:v1", "-O", out)
	if err != nil {
		t.Errorf("dfget: %v: %s", err, text)
		return
	}
	raw, err := a.Host.Command(h.ctx, "cat", filepath.Join(out, "index.json")).Output()
	want, _ := img.Digest()
	if err != nil || !json.Valid(raw) || !bytes.Contains(raw, []byte(want.String())) {
		t.Errorf("dfget's layout: %v: %s, want %s in it", err, raw, want)
	}
}
