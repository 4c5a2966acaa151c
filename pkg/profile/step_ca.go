package profile

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// maxAuthorities bounds one step's certificates.
const maxAuthorities = 16

// anchorPlaces are where a distribution takes authorities from, the program
// that takes them over, and the bundle that it makes.
var anchorPlaces = []struct {
	folder, program, bundle string
	args                    []string
}{
	{"/usr/local/share/ca-certificates", "update-ca-certificates", "/etc/ssl/certs/ca-certificates.crt", []string{"--fresh"}},
	{"/etc/pki/ca-trust/source/anchors", "update-ca-trust", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", []string{"extract"}},
}

// caStep has the whole host trust an authority: the supernode's own, or those
// in the setting "pem".
type caStep struct {
	host    *Host
	name    string
	pem     string
	install bool
}

func newCAStep(h *Host, v *values) Step {
	s := &caStep{host: h, name: v.text("name", "supernode"), pem: v.text("pem", ""), install: v.choice("install", "no", "apt") == "apt"}
	if !stepName.MatchString(s.name) {
		v.wrong("setting \"name\" is %q; want small letters, digits and dashes", s.name)
	}
	if s.pem != "" {
		if _, err := parseAuthorities([]byte(s.pem)); err != nil {
			v.wrong("setting \"pem\": %w", err)
		}
	}
	return s
}

// parseAuthorities reads certificates of authorities, and nothing else.
func parseAuthorities(raw []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	block, rest := pem.Decode(raw)
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s, and only certificates belong here", strings.ToLower(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read a certificate: %w", err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("the certificate of %q is no authority's", cert.Subject.CommonName)
		}
		out = append(out, cert)
	}
	switch {
	case len(strings.TrimSpace(string(rest))) > 0:
		return nil, errors.New("there is something else than PEM in it")
	case len(out) == 0 || len(out) > maxAuthorities:
		return nil, fmt.Errorf("it holds %d certificates; want 1 to %d", len(out), maxAuthorities)
	}
	return out, nil
}

// wanted are the authorities to trust, none where the supernode's certificate
// comes from one that everybody trusts.
func (s *caStep) wanted(ctx context.Context) ([]*x509.Certificate, error) {
	raw := []byte(s.pem)
	if s.pem == "" {
		var err error
		if raw, err = s.host.Authority(ctx); err != nil {
			return nil, fmt.Errorf("find the supernode's authority: %w", err)
		}
		if len(raw) == 0 {
			return nil, nil
		}
	}
	return parseAuthorities(raw)
}

func (s *caStep) prefix() string { return "shoal-" + s.name + "-" }

func (s *caStep) fileOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return s.prefix() + hex.EncodeToString(sum[:8]) + ".crt"
}

// place is where this distribution takes authorities from; -1 when it is not
// known.
func (s *caStep) place() int {
	for i, p := range anchorPlaces {
		if s.host.program(p.program) != "" {
			return i
		}
	}
	return -1
}

// Check implements Step.
func (s *caStep) Check(ctx context.Context) (Found, error) {
	want, err := s.wanted(ctx)
	if err != nil {
		return Found{}, err
	}
	if len(want) == 0 {
		return Found{Holds: true, Output: "the supernode has no authority of its own, nothing is to be trusted"}, nil
	}
	at := s.place()
	if at < 0 {
		return Found{Output: "there is neither update-ca-certificates nor update-ca-trust here"}, nil
	}
	place := anchorPlaces[at]
	bundle, err := s.host.read(place.bundle)
	if err != nil {
		return Found{}, err
	}
	trusted := map[string]bool{}
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		trusted[string(block.Bytes)] = true
	}
	out := Found{Holds: true}
	for _, c := range want {
		state := "is trusted"
		if have, err := s.host.read(path.Join(place.folder, s.fileOf(c))); err != nil || !trusted[string(c.Raw)] || string(have) != encodePEM(c) {
			out.Holds, state = false, "is not trusted"
		}
		out.Output = lines(out.Output, fmt.Sprintf("%q %s on this host", c.Subject.CommonName, state))
	}
	old, err := s.old(place.folder, want)
	if len(old) > 0 {
		out.Holds = false
		out.Output = lines(out.Output, "no longer to be trusted: "+list(old))
	}
	return out, err
}

// old are the files of this step that it no longer wants.
func (s *caStep) old(folder string, want []*x509.Certificate) ([]string, error) {
	entries, err := os.ReadDir(s.host.path(folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for older authorities: %w", err)
	}
	var out []string
	for _, e := range entries {
		stays := slices.ContainsFunc(want, func(c *x509.Certificate) bool { return s.fileOf(c) == e.Name() })
		middle, ours := strings.CutPrefix(e.Name(), s.prefix())
		// A name of another step may begin with this one's.
		if ours && !stays && len(middle) == len("0123456789abcdef.crt") && !strings.Contains(middle, "-") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

func encodePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// Apply implements Step.
func (s *caStep) Apply(ctx context.Context) (string, error) {
	want, err := s.wanted(ctx)
	if err != nil {
		return "", err
	}
	said := ""
	if s.place() < 0 {
		if !s.install {
			return "", errors.New("install ca-certificates, or let the step do so (setting install=apt)")
		}
		if said, err = s.host.aptInstall(ctx, "ca-certificates"); err != nil {
			return said, err
		}
	}
	at := s.place()
	if at < 0 {
		return said, errors.New("ca-certificates brought no program that takes an authority over")
	}
	place := anchorPlaces[at]
	for _, c := range want {
		name := path.Join(place.folder, s.fileOf(c))
		if err := s.host.write(name, []byte(encodePEM(c))); err != nil {
			return said, err
		}
		said = lines(said, "wrote "+name)
	}
	old, err := s.old(place.folder, want)
	if err != nil {
		return said, err
	}
	for _, name := range old {
		if err := os.Remove(s.host.path(path.Join(place.folder, name))); err != nil {
			return said, fmt.Errorf("remove an older authority: %w", err)
		}
		said = lines(said, "removed "+name)
	}
	told, err := s.host.run(ctx, place.program, place.args...)
	return lines(said, told), err
}
