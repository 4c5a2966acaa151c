package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/shoalproject/shoal/pkg/blob"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/auth/openid"
	"github.com/shoalproject/shoal/supernode/console"
	"github.com/shoalproject/shoal/supernode/registry"
)

const (
	// shownSwarms and shownImages bound what one page lists.
	shownSwarms = 100
	shownImages = 500
)

// doors lets the console use the auth gateway.
type doors struct{ Config }

func (d doors) Login(w http.ResponseWriter, r *http.Request, user, password string) error {
	_, err := d.Auth.LoginSession(w, r, user, password)
	var limit *auth.LimitError
	if errors.Is(err, auth.ErrLogin) || errors.Is(err, auth.ErrCSRF) || errors.As(err, &limit) {
		return fmt.Errorf("%w: %w", console.ErrRefused, err)
	}
	return err
}

func (d doors) OpenID() bool { return d.Auth.OpenID() }

func (d doors) BeginOpenID(w http.ResponseWriter, r *http.Request) error {
	return d.openIDError(d.Auth.BeginOpenID(w, r))
}

func (d doors) FinishOpenID(w http.ResponseWriter, r *http.Request) error {
	_, err := d.Auth.FinishOpenID(w, r)
	return d.openIDError(err)
}

// openIDError makes a refusal of what the person can do something about.
func (d doors) openIDError(err error) error {
	if err == nil {
		return nil
	}
	told := d.logOpenID(err)
	var limit *auth.LimitError
	for _, refusal := range []error{openid.ErrUnavailable, openid.ErrAttempt, openid.ErrRefused, openid.ErrUntrue, auth.ErrNameTaken, auth.ErrInvalid, auth.ErrNoOpenID} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", console.ErrRefused, told)
		}
	}
	if errors.As(err, &limit) {
		return fmt.Errorf("%w: %w", console.ErrRefused, told)
	}
	return err
}

func (d doors) Session(r *http.Request) (console.Session, bool) {
	s, err := d.Auth.SessionFrom(r)
	if err != nil {
		return console.Session{}, false
	}
	return console.Session{User: s.User.Name, CSRF: s.CSRF, MustChange: s.User.MustChange}, true
}

func (d doors) CheckForm(r *http.Request, csrf string) error {
	s, err := d.Auth.SessionFrom(r)
	if err != nil {
		return err
	}
	return d.Auth.CheckCSRF(r, s, csrf)
}

func (d doors) Logout(w http.ResponseWriter, r *http.Request) {
	if err := d.Auth.EndSession(w, r); err != nil {
		d.Log.Warn("a session was not ended", "error", err)
	}
}

func (d doors) ChangePassword(r *http.Request, old, next string) error {
	s, err := d.Auth.SessionFrom(r)
	if err != nil {
		return err
	}
	return d.Auth.ChangePassword(r, s.User.Name, old, next)
}

// images are those that whoever looks at the page may pull.
func (c Config) images(ctx context.Context) ([]console.Image, error) {
	var out []console.Image
	readable := c.Auth.ReadableBy(ctx, userOf(ctx).User)
	for repository, err := range c.Registry.Repositories(ctx) {
		if err != nil {
			return nil, err
		}
		may, err := readable(repository.Name)
		if err != nil {
			return nil, err
		}
		if !may {
			continue
		}
		for tag, err := range c.Registry.Tags(ctx, repository.Name) {
			if err != nil {
				return nil, err
			}
			if len(out) == shownImages {
				return out, nil
			}
			out = append(out, console.Image{
				Repository: repository.Name, Tag: tag.Name, Digest: string(tag.Digest), MediaType: tag.MediaType,
				Size: c.imageSize(ctx, tag), Pushed: tag.Time,
			})
		}
	}
	return out, nil
}

// imageSize adds up what a manifest names; of an index, its own size.
func (c Config) imageSize(ctx context.Context, tag registry.Tag) int64 {
	content, err := c.Registry.Content(ctx, tag.Digest)
	if err != nil {
		return tag.Size
	}
	defer content.Close()
	var parsed struct {
		Config blob.Descriptor   `json:"config"`
		Layers []blob.Descriptor `json:"layers"`
	}
	if json.NewDecoder(io.NewSectionReader(content, 0, content.Size())).Decode(&parsed) != nil {
		return tag.Size
	}
	size := tag.Size + parsed.Config.Size
	for _, l := range parsed.Layers {
		size += l.Size
	}
	return size
}

// swarms are for administrators: who holds what tells of every project.
func (c Config) swarms(ctx context.Context) ([]console.Swarm, error) {
	if !userOf(ctx).Admin {
		return nil, nil
	}
	names, err := c.hostNames(ctx)
	if err != nil {
		return nil, err
	}
	var out []console.Swarm
	for _, s := range c.Tracker.Swarms(c.Now(), shownSwarms) {
		full, ok := c.Tracker.Swarm(c.Now(), s.Digest)
		if !ok {
			continue
		}
		pieces := blob.PieceCount(full.Size)
		one := console.Swarm{Digest: string(full.Digest), Size: full.Size}
		for _, m := range full.Members {
			p := console.Peer{Host: names(m.Peer.ID), Held: m.Held, Pieces: pieces}
			if m.Complete {
				p.Held = pieces
			}
			one.Peers = append(one.Peers, p)
		}
		out = append(out, one)
	}
	return out, nil
}

// hostNames tells a peer's name, as far as it said one.
func (c Config) hostNames(ctx context.Context) (func(peerID string) string, error) {
	nodes, err := c.Auth.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, n := range nodes {
		names[n.PeerID] = n.Hostname
	}
	return func(peerID string) string {
		if name := names[peerID]; name != "" {
			return name
		}
		return peerID
	}, nil
}
