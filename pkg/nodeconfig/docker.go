package nodeconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

const (
	dockerConfig = "/etc/docker/daemon.json"
	mirrorsKey   = "registry-mirrors"
)

func (p *Plan) docker() error {
	raw, err := read(p.opts.Root, dockerConfig)
	if err != nil {
		return err
	}
	after, err := addMirror(raw, p.opts.DockerMirror)
	if err != nil {
		return err
	}
	p.want(dockerConfig, raw, after)
	if len(p.Changes) > 0 {
		p.note("restart Docker for it to read %s; if dockerd is started with --registry-mirror, take that flag away first, it refuses both", dockerConfig)
	}
	p.note("Docker's registry-mirrors serve docker.io only; other registries come through the mirror with Docker 28 and its containerd image store")
	return p.hosts(dockerCerts)
}

// addMirror puts url first among the registry-mirrors of a daemon.json and
// leaves every other byte alone.
func addMirror(raw []byte, url string) ([]byte, error) {
	quoted, err := json.Marshal(url)
	if err != nil {
		return nil, fmt.Errorf("quote %q: %w", url, err)
	}
	if raw == nil {
		return fmt.Appendf(nil, "{\n  %q: [%s]\n}\n", mirrorsKey, quoted), nil
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, fmt.Errorf("%w: %s is empty, which is no JSON; delete it and try again", ErrForeign, dockerConfig)
	}
	place, err := findMirrors(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %s cannot be edited: %w. Set by hand %q: [%s]", ErrForeign, dockerConfig, err, mirrorsKey, quoted)
	}
	for _, have := range place.values {
		if have == url {
			return raw, nil
		}
	}
	insert := fmt.Sprintf("\n  %q: [%s]", mirrorsKey, quoted)
	switch {
	case place.found && len(place.values) > 0:
		insert = string(quoted) + ", "
	case place.found:
		insert = string(quoted)
	case place.keys > 0:
		insert += ","
	default:
		insert += "\n"
	}
	after := bytes.Join([][]byte{raw[:place.at], []byte(insert), raw[place.at:]}, nil)
	return after, sameButMirrors(raw, after, append([]string{url}, place.values...))
}

// spot is where the mirror's URL goes in.
type spot struct {
	at     int64    // byte offset: behind the array's '[', or behind the object's '{'
	found  bool     // there is a registry-mirrors array
	values []string // what it holds
	keys   int      // of the object
}

// findMirrors walks the top level of a JSON object.
func findMirrors(raw []byte) (spot, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return spot{}, errors.New("it is not a JSON object")
	}
	s := spot{at: dec.InputOffset()}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return spot{}, err
		}
		s.keys++
		if t != mirrorsKey {
			var skip json.RawMessage
			if err := dec.Decode(&skip); err != nil {
				return spot{}, err
			}
			continue
		}
		if s.found {
			return spot{}, fmt.Errorf("it holds %q twice", mirrorsKey)
		}
		s.found = true
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			return spot{}, fmt.Errorf("its %q is not a list", mirrorsKey)
		}
		s.at = dec.InputOffset()
		for dec.More() {
			t, err := dec.Token()
			text, ok := t.(string)
			if err != nil || !ok {
				return spot{}, fmt.Errorf("its %q holds something else than text", mirrorsKey)
			}
			s.values = append(s.values, text)
		}
		if _, err := dec.Token(); err != nil {
			return spot{}, err
		}
	}
	if _, err := dec.Token(); err != nil {
		return spot{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return spot{}, errors.New("something follows its object")
	}
	return s, nil
}

// sameButMirrors checks an edit: nothing but the list may differ.
func sameButMirrors(before, after []byte, mirrors []string) error {
	var a, b map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(before, &a), json.Unmarshal(after, &b)); err != nil {
		return fmt.Errorf("check the edit of %s: %w", dockerConfig, err)
	}
	var got []string
	if err := json.Unmarshal(b[mirrorsKey], &got); err != nil {
		return fmt.Errorf("check the edit of %s: %w", dockerConfig, err)
	}
	delete(a, mirrorsKey)
	delete(b, mirrorsKey)
	if !reflect.DeepEqual(a, b) || !reflect.DeepEqual(got, mirrors) {
		return fmt.Errorf("%w: %s is written in a way that cannot be edited safely", ErrForeign, dockerConfig)
	}
	return nil
}
