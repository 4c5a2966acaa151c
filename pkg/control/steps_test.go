package control

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

func TestAuthority(t *testing.T) {
	ca, err := identity.LoadOrCreateCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config, err := ca.ServerTLS([]string{"127.0.0.1"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Listener = tls.NewListener(server.Listener, config)
	server.Start()
	defer server.Close()
	url := strings.Replace(server.URL, "http:", "https:", 1)
	pin := ca.SHA256()
	fetch := func(w *shoalv1.Welcome) ([]byte, error) { return Authority(t.Context(), w, time.Now) }

	got, err := fetch(&shoalv1.Welcome{Urls: []string{"http://127.0.0.1:1", url}, CaSha256: pin[:]})
	if block, _ := pem.Decode(got); err != nil || block == nil || sha256.Sum256(block.Bytes) != pin {
		t.Errorf("got %s, %v", got, err)
	}
	other := sha256.Sum256([]byte("another"))
	if got, err := fetch(&shoalv1.Welcome{Urls: []string{url}, CaSha256: other[:]}); err == nil || got != nil {
		t.Errorf("an authority that was not pinned: %s, %v", got, err)
	}
	for name, w := range map[string]*shoalv1.Welcome{
		"no TLS": {Urls: []string{"http://127.0.0.1:1"}, CaSha256: pin[:]},
		"no pin": {Urls: []string{url}, CaSha256: make([]byte, 32)},
	} {
		if got, err := fetch(w); err != nil || got != nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestNeverTaken(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{errors.New("connection refused"), false},
		{connect.NewError(connect.CodeNotFound, errors.New("made here")), false},
		{connect.NewWireError(connect.CodeUnavailable, errors.New("later")), false},
		{connect.NewWireError(connect.CodeInvalidArgument, errors.New("no")), true},
		{fmt.Errorf("at one: %w", connect.NewWireError(connect.CodeNotFound, errors.New("no"))), true},
	} {
		if NeverTaken(c.err) != c.want {
			t.Errorf("%v: want %v", c.err, c.want)
		}
	}
}
