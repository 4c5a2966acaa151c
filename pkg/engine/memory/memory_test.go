package memory_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/shoalproject/shoal/pkg/engine"
	"github.com/shoalproject/shoal/pkg/engine/enginetest"
	"github.com/shoalproject/shoal/pkg/engine/enginetest/play"
	"github.com/shoalproject/shoal/pkg/engine/memory"
)

func TestMemory(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Subject {
		e, err := memory.Open(memory.Options{
			LogBytes: enginetest.LogBytes,
			Program: func(ctx context.Context, s engine.Spec, out io.Writer) int {
				return play.Main(ctx, s.Args, s.Env, out)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		s := enginetest.Subject{
			Engine: e, Manifest: digest.FromString("manifest"), Index: digest.FromString("index"),
			Reopen: func(*testing.T) engine.Engine { return e }, // it is its own runtime
		}
		for _, d := range []digest.Digest{s.Manifest, s.Index, s.Manifest} {
			if err := e.Unpack(d); err != nil {
				t.Fatal(err)
			}
		}
		return s
	})
}

func TestImagesOutliveTheProcess(t *testing.T) {
	dir, d := t.TempDir(), digest.FromString("manifest")
	for range 2 {
		e, err := memory.Open(memory.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Unpack(d); err != nil {
			t.Fatal(err)
		}
		if list, err := e.Images(t.Context()); err != nil || len(list) != 1 || list[0] != d {
			t.Errorf("images %v, %v", list, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "images"), []byte("sha256:../x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := memory.Open(memory.Options{Dir: dir}); err == nil {
		t.Error("a damaged list was taken")
	}
}

func TestPretendedContainerAnswersOnItsPorts(t *testing.T) {
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	code := make(chan int)
	go func() {
		port := 0
		_, _ = fmt.Sscanf(addr, "127.0.0.1:%d", &port)
		code <- memory.Pretend(ctx, engine.Spec{Image: "team/app", Args: []string{"serve"}, Ports: []int{port}}, writer)
	}()
	line := make([]byte, 100)
	if n, err := reader.Read(line); err != nil || !strings.Contains(string(line[:n]), `pretending to run team/app`) {
		t.Errorf("it says %q, %v", line[:n], err)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("it ended with %d", got)
	}
}
