// Command torrentnode is the benchmark's second engine: anacrolix/torrent,
// with the best tuning that was found (docs/benchmarks.md says how the others
// did). One process is one host, a seed or not; it takes every .torrent file
// of a folder, one for each blob.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/anacrolix/generics"
	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"github.com/anacrolix/torrent/storage"
	"golang.org/x/time/rate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "torrentnode:", err)
		stop()
		os.Exit(1)
	}
}

// options are the flags; tuning is apart, so that its variants can be tried.
type options struct {
	torrents, data, listen, peers string
	make                          string
	seed                          bool
	start                         int64
	tuning
}

type tuning struct {
	chunk, unverified int64
	conns             int
	defaults          bool
}

func run(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("torrentnode", flag.ContinueOnError)
	flags.StringVar(&o.torrents, "torrents", "", "folder with the .torrent files")
	flags.StringVar(&o.make, "make", "", "make .torrent files of these files (comma between) and stop")
	pieceLength := flags.Int64("piece", 256<<10, "with -make: piece length in bytes")
	flags.StringVar(&o.data, "data", "", "folder of the blobs")
	flags.StringVar(&o.listen, "listen", "", "IP:port to listen at")
	flags.StringVar(&o.peers, "peers", "", "IP:port of every other host, comma between")
	flags.BoolVar(&o.seed, "seed", false, "hold the blobs already")
	flags.Int64Var(&o.start, "start", 0, "begin at this Unix time in nanoseconds")
	flags.BoolVar(&o.defaults, "defaults", false, "leave the library's defaults alone")
	flags.Int64Var(&o.chunk, "chunk", 128<<10, "bytes asked for in one request")
	flags.Int64Var(&o.unverified, "unverified", 64<<20, "bytes in flight before they are verified")
	flags.IntVar(&o.conns, "conns", 5, "connections per torrent")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.make != "" {
		return makeTorrents(strings.Split(o.make, ","), o.torrents, *pieceLength)
	}
	return serve(ctx, o)
}

// makeTorrents writes one .torrent for each file.
func makeTorrents(paths []string, dir string, pieceLength int64) error {
	for _, path := range paths {
		info := metainfo.Info{PieceLength: pieceLength}
		if err := info.BuildFromFilePath(path); err != nil {
			return fmt.Errorf("torrent of %s: %w", path, err)
		}
		raw, err := bencode.Marshal(&info)
		if err != nil {
			return fmt.Errorf("torrent of %s: %w", path, err)
		}
		f, err := os.Create(filepath.Join(dir, filepath.Base(path)+".torrent"))
		if err != nil {
			return fmt.Errorf("torrent of %s: %w", path, err)
		}
		err = (&metainfo.MetaInfo{InfoBytes: raw}).Write(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("torrent of %s: %w", path, err)
		}
	}
	return nil
}

func serve(ctx context.Context, o options) error {
	client, err := torrent.NewClient(config(o))
	if err != nil {
		return fmt.Errorf("torrent client at %s: %w", o.listen, err)
	}
	defer client.Close()
	all, err := add(ctx, client, o)
	if err != nil {
		return err
	}
	if o.seed {
		fmt.Println(`{"ready":true}`)
		<-ctx.Done()
		return nil
	}
	peers, err := parsePeers(o.peers)
	if err != nil {
		return err
	}
	fmt.Println(`{"ready":true}`)
	if !waitUntil(ctx, time.Unix(0, o.start)) {
		return ctx.Err()
	}
	var bytes int64
	for _, t := range all {
		t.AddPeers(peers)
		t.DownloadAll()
	}
	for _, t := range all {
		select {
		case <-t.Complete().On():
			bytes += t.Length()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	done, err := json.Marshal(map[string]int64{"done": time.Now().UnixNano(), "bytes": bytes})
	if err != nil {
		return err
	}
	fmt.Println(string(done))
	<-ctx.Done() // and seed for the others
	return nil
}

func config(o options) *torrent.ClientConfig {
	c := torrent.NewDefaultClientConfig()
	c.SetListenAddr(o.listen)
	c.DataDir = o.data
	c.DefaultStorage = storage.NewFileOpts(storage.NewFileClientOpts{
		ClientBaseDir:   o.data,
		PieceCompletion: storage.NewMapPieceCompletion(),
		UsePartFiles:    generics.Some(false),
	})
	c.Seed = true
	c.NoDHT = true
	c.DisablePEX = true
	c.DisableTrackers = true
	c.DisableWebtorrent = true
	c.DisableWebseeds = true
	c.NoDefaultPortForwarding = true
	c.DisableIPv6 = true
	c.Slogger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if o.defaults {
		return c
	}
	c.DisableUTP = true
	c.HeaderObfuscationPolicy.Preferred = false
	c.DropMutuallyCompletePeers = true
	c.DialRateLimiter = rate.NewLimiter(rate.Inf, 0)
	c.NominalDialTimeout = 2 * time.Second
	c.EstablishedConnsPerTorrent = o.conns
	c.MaxUnverifiedBytes = o.unverified
	c.MaxAllocPeerRequestDataPerConn = int(max(1<<20, 4*o.chunk))
	c.PieceHashersPerTorrent = 1
	return c
}

// add loads the torrents; a seed checks its data first.
func add(ctx context.Context, client *torrent.Client, o options) ([]*torrent.Torrent, error) {
	files, err := filepath.Glob(filepath.Join(o.torrents, "*.torrent"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no .torrent file in %q", o.torrents)
	}
	var all []*torrent.Torrent
	for _, file := range files {
		mi, err := metainfo.LoadFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", file, err)
		}
		spec, err := torrent.TorrentSpecFromMetaInfoErr(mi)
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", file, err)
		}
		if !o.defaults {
			spec.ChunkSize = pp.Integer(o.chunk)
		}
		t, _, err := client.AddTorrentSpec(spec)
		if err != nil {
			return nil, fmt.Errorf("add %s: %w", file, err)
		}
		if o.seed {
			if err := t.VerifyDataContext(ctx); err != nil {
				return nil, fmt.Errorf("verify %s: %w", file, err)
			}
			if t.BytesMissing() != 0 {
				return nil, fmt.Errorf("%s: the seed lacks %d bytes", file, t.BytesMissing())
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// parsePeers reads the list and shuffles it: hosts that all dial in the same
// order crowd the first.
func parsePeers(list string) ([]torrent.PeerInfo, error) {
	var peers []torrent.PeerInfo
	for _, s := range strings.Split(list, ",") {
		addr, err := netip.ParseAddrPort(s)
		if err != nil {
			return nil, fmt.Errorf("peer %q: %w", s, err)
		}
		peers = append(peers, torrent.PeerInfo{Addr: peerAddr(addr), Trusted: true})
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	return peers, nil
}

type peerAddr netip.AddrPort

func (a peerAddr) String() string { return netip.AddrPort(a).String() }

// waitUntil reports false when the context ended first.
func waitUntil(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
