// Package control is an agent's line to its supernodes: the first join, the
// renewal of the membership, and the orders that come down. It keeps what the
// supernodes said (the welcome), so that an agent that starts without any of
// them still knows whom to believe.
package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/durable"
	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// joinTimeout bounds one attempt to join through one supernode.
const joinTimeout = 15 * time.Second

// welcomeFile is where a welcome is kept in the agent's data folder.
const welcomeFile = "welcome.pb"

// JoinConfig is what a first join needs.
type JoinConfig struct {
	Supernodes []string // URLs; the first that answers takes the node in
	Token      string   // from `supernode join-token`
	// CA is the PEM of the authority to trust instead of the one that the
	// token pins; empty trusts the token.
	CA       []byte
	Key      *identity.Key
	Hostname string
	Now      func() time.Time
}

// Join proves the node's key to a supernode and returns its welcome. The
// supernode's certificate must come from the authority whose SHA-256 stands
// in the token.
func Join(ctx context.Context, c JoinConfig) (*shoalv1.Welcome, error) {
	parsed, err := token.ParseJoin(c.Token)
	if err != nil {
		return nil, fmt.Errorf("join: %w; get a new one with 'supernode join-token'", err)
	}
	var errs []error
	for _, raw := range c.Supernodes {
		welcome, err := joinOne(ctx, c, raw, parsed)
		if err == nil {
			return welcome, nil
		}
		errs = append(errs, fmt.Errorf("join through %s: %w", raw, err))
	}
	if len(errs) == 0 {
		return nil, errors.New("join: no supernode is named; use --supernode URL")
	}
	return nil, errors.Join(errs...)
}

func joinOne(ctx context.Context, c JoinConfig, raw string, parsed token.Join) (*shoalv1.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	u, err := url.Parse(strings.TrimSuffix(raw, "/"))
	if err != nil || u.Host == "" {
		return nil, errors.New("this is not the URL of a supernode, such as https://registry.example.com:8001")
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	switch {
	case u.Scheme == "https" && len(c.CA) > 0:
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the file given as --ca holds no PEM certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	case u.Scheme == "https":
		transport.TLSClientConfig = identity.PinnedTLS(parsed.CASHA256, u.Hostname(), c.Now, nil)
	case u.Scheme != "http" || !isLoopback(u.Hostname()):
		return nil, errors.New("a join goes over https; plain http is for loopback only")
	}
	client := shoalv1connect.NewJoinServiceClient(&http.Client{Transport: transport}, u.String()+"/api")
	answer, err := client.Join(ctx, connect.NewRequest(&shoalv1.JoinRequest{
		Token:     c.Token,
		PublicKey: c.Key.Public(),
		Proof:     identity.JoinProof(c.Key, c.Token),
		Hostname:  c.Hostname,
	}))
	if err != nil {
		return nil, err
	}
	if answer.Msg.Welcome == nil {
		return nil, errors.New("the supernode answered without a welcome")
	}
	return answer.Msg.Welcome, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")
}

// SaveWelcome keeps a welcome in the data folder (it holds secrets: 0600).
func SaveWelcome(dir string, w *shoalv1.Welcome) error {
	raw, err := proto.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode the welcome: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, welcomeFile), raw, 0o600)
}

// LoadWelcome reads the kept welcome; nil when this node never joined.
func LoadWelcome(dir string) (*shoalv1.Welcome, error) {
	raw, err := os.ReadFile(filepath.Join(dir, welcomeFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // absence is an ordinary answer
	}
	if err != nil {
		return nil, fmt.Errorf("read what the supernode said: %w", err)
	}
	w := &shoalv1.Welcome{}
	if err := proto.Unmarshal(raw, w); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it and join again with a new token", filepath.Join(dir, welcomeFile), err)
	}
	return w, nil
}
