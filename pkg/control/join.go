// Package control is an agent's line to its supernodes: the first join, the
// return after a long absence, the renewal of the membership, and the orders
// that come down. It keeps what the supernodes said (the welcome), so that an
// agent that starts without any of them still knows whom to believe.
package control

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/settings"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

const (
	// joinTimeout bounds one attempt to join through one supernode.
	joinTimeout = 15 * time.Second
	// maxWelcome bounds what a supernode may answer, in bytes.
	maxWelcome = 4 << 20
)

// JoinConfig is what a join needs.
type JoinConfig struct {
	Supernodes []string // URLs; the first that answers takes the node in
	Token      string   // from `supernode join-token`; a return needs none
	// CA is the PEM of the authority to trust instead of the one that the
	// token pins; empty trusts the token.
	CA       []byte
	Key      *identity.Key
	Hostname string
	Now      func() time.Time
}

// Join proves the node's key to a supernode and returns its welcome. The
// supernode's certificate must come from the authority whose SHA-256 stands
// in the token. The welcome notes by what Return finds back.
func Join(ctx context.Context, c JoinConfig) (*shoalv1.Welcome, error) {
	parsed, err := token.ParseJoin(c.Token)
	if err != nil {
		return nil, fmt.Errorf("join: %w; get a new one with 'supernode join-token'", err)
	}
	if len(c.Supernodes) == 0 {
		return nil, errors.New("join: no supernode is named; use --supernode URL")
	}
	return c.through(ctx, "join", c.Supernodes, c.Token, parsed.CASHA256)
}

// Return brings a node back whose membership ran out while it was away: it
// proves its key again, with no token, through the supernodes that are named
// or that it joined through. kept is the welcome that it had.
func Return(ctx context.Context, c JoinConfig, kept *shoalv1.Welcome) (*shoalv1.Welcome, error) {
	urls := slices.Concat(c.Supernodes, kept.Urls)
	if len(urls) == 0 {
		return nil, errors.New("return: this node did not keep by which URL it joined; use --supernode URL")
	}
	var pin [sha256.Size]byte
	copy(pin[:], kept.CaSha256)
	var unique []string
	for _, u := range urls {
		if u = strings.TrimSuffix(u, "/"); !slices.Contains(unique, u) {
			unique = append(unique, u)
		}
	}
	return c.through(ctx, "return", unique, token.NewReturn(c.Now()), pin)
}

// Refused reports whether a supernode was reached and said no, so that trying
// again is of no use before somebody changed something.
func Refused(err error) bool {
	if err == nil {
		return false
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // the tree is walked by hand
		return slices.ContainsFunc(all.Unwrap(), Refused)
	}
	var said *connect.Error
	return errors.As(err, &said) && connect.IsWireError(said) &&
		(said.Code() == connect.CodePermissionDenied || said.Code() == connect.CodeNotFound)
}

func (c JoinConfig) through(ctx context.Context, what string, urls []string, text string, pin [sha256.Size]byte) (*shoalv1.Welcome, error) {
	var errs []error
	for _, raw := range urls {
		welcome, err := c.knock(ctx, raw, text, pin)
		if err == nil {
			welcome.Urls, welcome.CaSha256 = urls, pin[:]
			return welcome, nil
		}
		errs = append(errs, fmt.Errorf("%s through %s: %w", what, raw, err))
	}
	return nil, errors.Join(errs...)
}

// knock sends one request to join, by the token or the return in text.
func (c JoinConfig) knock(ctx context.Context, raw, text string, pin [sha256.Size]byte) (*shoalv1.Welcome, error) {
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
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Time: c.Now}
	case u.Scheme == "https":
		transport.TLSClientConfig = identity.PinnedTLS(pin, u.Hostname(), c.Now, nil)
	case u.Scheme != "http" || !settings.Loopback(u.Hostname()):
		return nil, errors.New("a join goes over https; plain http is for loopback only")
	}
	client := shoalv1connect.NewJoinServiceClient(&http.Client{Transport: transport}, u.String()+"/api", connect.WithReadMaxBytes(maxWelcome))
	answer, err := client.Join(ctx, connect.NewRequest(&shoalv1.JoinRequest{
		Token:     text,
		PublicKey: c.Key.Public(),
		Proof:     identity.JoinProof(c.Key, text),
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
