package listen

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestATakenPortNamesItsFlag(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := New(quiet())
	err = s.Open(t.Context(), Address{Name: "mirror", Flag: "mirror", Addr: taken.Addr().String(), Server: &http.Server{}})
	if err == nil || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("%v", err)
	}
}

func TestRequestsInProgressGetTheirGrace(t *testing.T) {
	began, slow := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/for-ever" {
			began <- struct{}{}
			<-r.Context().Done()
			return
		}
		began <- struct{}{}
		<-slow
		io.WriteString(w, "done")
	})
	s := New(quiet())
	for name, grace := range map[string]time.Duration{"patient": time.Minute, "hasty": time.Millisecond} {
		if err := s.Open(t.Context(), Address{Name: name, Addr: "127.0.0.1:0", Server: &http.Server{Handler: handler}, Grace: grace}); err != nil {
			t.Fatal(err)
		}
	}
	var group errgroup.Group
	s.Serve(&group)
	answers := make(chan string, 2)
	for _, o := range s.open {
		path := map[string]string{"patient": "/slow", "hasty": "/for-ever"}[o.Name]
		go func() {
			response, err := http.Get("http://" + o.net.Addr().String() + path)
			if err != nil {
				answers <- "cut"
				return
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			answers <- string(body)
		}()
		<-began
	}
	stopped := make(chan struct{})
	go func() {
		s.Stop()
		close(stopped)
	}()
	if got := <-answers; got != "cut" {
		t.Errorf("the hasty one answered %q", got)
	}
	close(slow)
	if got := <-answers; got != "done" {
		t.Errorf("the patient one answered %q", got)
	}
	<-stopped
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func TestSocketIsForThisUserAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(quiet())
	if err := s.OpenSocket(t.Context(), path, &http.Server{}, time.Second); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := New(quiet()).OpenSocket(t.Context(), filepath.Join(t.TempDir(), strings.Repeat("x", 120)), &http.Server{}, 0); err == nil {
		t.Error("a path that is too long was taken")
	}
}
