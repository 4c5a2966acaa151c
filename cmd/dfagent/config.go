package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoalproject/shoal/pkg/settings"
)

// config is every setting of the agent; its help tags are the manual that
// `dfagent config print` shows.
type config struct {
	Supernodes    []string      `yaml:"supernode" help:"URL of a supernode; more than one by commas or repetition. Needed for the first join, afterwards the supernodes name each other."`
	Join          string        `yaml:"join" help:"Token from 'supernode join-token'; needed once, the identity lives in the data folder."`
	JoinFile      string        `yaml:"join-file" help:"File with that token, instead of join; read only while this host has not joined."`
	CA            string        `yaml:"ca" help:"PEM file of the supernode's authority, where the join token does not pin it."`
	Data          string        `yaml:"data" help:"Folder for the identity and the blobs."`
	Hostname      string        `yaml:"hostname" help:"Name of this host in lists; empty takes the system's."`
	Mirror        string        `yaml:"mirror" help:"Registry mirror for containerd and Docker, plain HTTP."`
	DockerMirror  string        `yaml:"docker-mirror" help:"The same for Docker's registry-mirrors, which always means docker.io; empty switches it off."`
	MirrorHosts   []string      `yaml:"mirror-host" help:"Further Host headers that the mirror answers to; loopback names always are."`
	SwarmListen   string        `yaml:"swarm-listen" help:"Pieces for neighbours, mutual TLS."`
	P2PListen     string        `yaml:"p2p-listen" help:"libp2p, for finding neighbours when no supernode answers; empty switches it off."`
	MetricsListen string        `yaml:"metrics-listen" help:"/metrics and /debug/pprof; open on loopback only."`
	MetricsToken  string        `yaml:"metrics-token-file" help:"File with the bearer token that metrics-listen asks for off loopback."`
	Rack          string        `yaml:"rack" help:"Neighbours of the same rack are asked first."`
	Zone          string        `yaml:"zone" help:"Neighbours of the same zone are asked next."`
	CacheSize     settings.Size `yaml:"cache-size" help:"How much to keep; the least recently read goes first."`
	UploadLimit   settings.Rate `yaml:"upload-limit" help:"Limit of what is sent to neighbours; 0 is none."`
	DownloadLimit settings.Rate `yaml:"download-limit" help:"Limit of what is fetched; 0 is none."`
	UploadSlots   int           `yaml:"upload-slots" help:"How many pieces are sent at once."`
	Containerd    string        `yaml:"containerd" help:"Socket of containerd: what it holds is served to neighbours, containers run on it, and prewarm --unpack brings images into it."`
	ContainerdNS  string        `yaml:"containerd-namespace" help:"containerd namespace that images are brought into and containers run in."`
	Docker        string        `yaml:"docker" help:"Socket of Docker: containers run on it, and prewarm --unpack brings images into it, where there is no containerd."`
	Engine        string        `yaml:"engine" help:"What runs the containers that are placed on this host: containerd, docker, memory (which only pretends to, for trying things out) or none. Empty takes the runtime that --containerd or --docker names."`
	ApplyProfiles bool          `yaml:"apply-profiles" help:"Change this host as its pool's profile says, when the supernode orders it; else it is only looked at. On for root."`
	ProfileRoot   string        `yaml:"profile-root" help:"Folder that stands for / in the steps of a profile, to prepare a disk image or to try a profile out."`
}

func defaults() config {
	return config{
		Data:          "shoal-agent",
		Mirror:        "127.0.0.1:65001",
		DockerMirror:  "127.0.0.1:65004",
		SwarmListen:   ":65002",
		P2PListen:     ":65003",
		MetricsListen: "127.0.0.1:9091",
		CacheSize:     50e9,
		UploadSlots:   5,
		ContainerdNS:  "k8s.io",
		ApplyProfiles: os.Geteuid() == 0,
		ProfileRoot:   "/",
	}
}

func (c *config) check() error {
	addrs := map[string]string{"mirror": c.Mirror, "swarm-listen": c.SwarmListen}
	if c.DockerMirror != "" {
		addrs["docker-mirror"] = c.DockerMirror
	}
	if c.P2PListen != "" {
		addrs["p2p-listen"] = c.P2PListen
	}
	for flag, addr := range addrs {
		if _, err := settings.Listen(flag, addr); err != nil {
			return err
		}
	}
	loopback, err := settings.Listen("metrics-listen", c.MetricsListen)
	if err != nil {
		return err
	}
	if !loopback && c.MetricsToken == "" {
		return fmt.Errorf("--metrics-listen %s is not loopback: name a file with a bearer token by --metrics-token-file", c.MetricsListen)
	}
	if c.Join != "" && c.JoinFile != "" {
		return errors.New("--join and --join-file are two ways to say one thing; give one of them")
	}
	if err := c.checkEngine(); err != nil {
		return err
	}
	if c.UploadSlots < 1 {
		return fmt.Errorf("--upload-slots %d: at least one is needed", c.UploadSlots)
	}
	if c.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this host's name: %w; give it with --hostname", err)
		}
		c.Hostname = name
	}
	return nil
}

// maxJoinFile bounds what is read as a join token, in bytes.
const maxJoinFile = 4096

// readJoin takes the join token from its file. One that is not there is none:
// whoever put it there may have taken it away after the join.
func (c *config) readJoin() error {
	if c.JoinFile == "" {
		return nil
	}
	f, err := os.Open(c.JoinFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read --join-file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxJoinFile))
	if err != nil {
		return fmt.Errorf("read --join-file: %w", err)
	}
	c.Join = strings.TrimSpace(string(raw))
	return nil
}

func (c *config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Data}, elem...)...)
}
