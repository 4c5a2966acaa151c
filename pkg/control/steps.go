package control

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/pkg/identity"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// ReportSteps tells how this host stands to its pool's profile.
func (l *Line) ReportSteps(ctx context.Context, r *shoalv1.ReportStepsRequest) error {
	return l.each(ctx, func(ctx context.Context, base string) error {
		_, err := shoalv1connect.NewHostServiceClient(l.client, base).ReportSteps(ctx, connect.NewRequest(r))
		return err
	})
}

// NeverTaken reports whether an error of a call says that a supernode read the
// message and will not take it, however often it comes.
func NeverTaken(err error) bool {
	var said *connect.Error
	if !errors.As(err, &said) || !connect.IsWireError(said) {
		return false
	}
	switch said.Code() {
	case connect.CodeInvalidArgument, connect.CodeUnimplemented, connect.CodePermissionDenied, connect.CodeNotFound:
		return true
	}
	return false
}

// Authority fetches the certificate of the authority that this node's
// supernodes were pinned by, as PEM. It is empty where they are reached without
// TLS, and where what was pinned is the supernode's own certificate and no
// authority's.
func Authority(ctx context.Context, w *shoalv1.Welcome, now func() time.Time) ([]byte, error) {
	var pin [sha256.Size]byte
	if copy(pin[:], w.CaSha256) != len(pin) || pin == [sha256.Size]byte{} {
		return nil, nil
	}
	var errs []error
	for _, raw := range w.Urls {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" {
			continue
		}
		found, err := shownAuthority(ctx, u, pin, now)
		if err == nil {
			return found, nil
		}
		errs = append(errs, fmt.Errorf("ask %s for its authority: %w", raw, err))
	}
	return nil, errors.Join(errs...)
}

func shownAuthority(ctx context.Context, u *url.URL, pin [sha256.Size]byte, now func() time.Time) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	var shown *x509.Certificate
	transport := &http.Transport{TLSClientConfig: identity.PinnedTLS(pin, u.Hostname(), now, func(c *x509.Certificate) { shown = c })}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("/healthz").String(), nil)
	if err != nil {
		return nil, err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	answer.Body.Close()
	if shown == nil || !shown.IsCA {
		return nil, nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shown.Raw}), nil
}
