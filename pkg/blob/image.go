package blob

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoPlatform is what PickPlatform wraps when an index has nothing for a
// platform.
var ErrNoPlatform = errors.New("the image has nothing for this platform")

// Image is the name of an image as people write it, taken apart.
type Image struct {
	Ref
	Tag    string // "" beside a digest that stands alone
	Digest Digest // "" when only the tag is given
}

// ParseImage reads [REGISTRY/]REPOSITORY[:TAG][@DIGEST]. As in Docker, a first
// element is a registry when it has a dot or a colon or is localhost, and a
// bare name at docker.io is in library/; without a registry the supernode's
// own is meant. A name without tag and digest means the tag latest. The error
// wraps ErrInvalidName or is ParseDigest's.
func ParseImage(s string) (Image, error) {
	var i Image
	if _, err := ParseDigest(s); err == nil {
		return i, fmt.Errorf("%w: a digest alone does not say whose it is; write REPOSITORY@%s", ErrInvalidName, s)
	}
	name, digest, pinned := strings.Cut(s, "@")
	if pinned {
		d, err := ParseDigest(digest)
		if err != nil {
			return i, err
		}
		i.Digest = d
	}
	first, rest, found := strings.Cut(name, "/")
	if found && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if !hostPort(first) {
			return i, fmt.Errorf("%w: %q is no registry's HOST[:PORT]", ErrInvalidName, clip(first))
		}
		i.Registry, name = first, rest
	}
	if at := strings.LastIndexByte(name, ':'); at >= 0 {
		name, i.Tag = name[:at], name[at+1:]
		if err := CheckTag(i.Tag); err != nil {
			return i, err
		}
	}
	if i.Registry == "docker.io" && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	if err := CheckRepository(name); err != nil {
		return i, fmt.Errorf("%q is not [REGISTRY/]REPOSITORY[:TAG][@DIGEST]: %w", clip(s), err)
	}
	i.Repository = name
	if i.Tag == "" && !pinned {
		i.Tag = "latest"
	}
	return i, nil
}

// hostPort reports whether s has no character but those of a host's name or
// address and a port, and is no path.
func hostPort(s string) bool {
	start := s[0] != '.' && s[0] != ':' && s[0] != '-'
	return start && len(s) <= maxRepository && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".:-_[]", c)
	})
}

// Reference is what stands behind /manifests/ for this image: the digest, or
// else the tag.
func (i Image) Reference() string {
	if i.Digest != "" {
		return string(i.Digest)
	}
	return i.Tag
}

// PickPlatform chooses, of an index's manifests, the first for
// os/arch[/variant]; without a variant any fits. The error wraps
// ErrInvalidName or ErrNoPlatform and lists what there is.
func PickPlatform(manifests []Descriptor, platform string) (Descriptor, error) {
	parts := strings.SplitN(platform, "/", 3)
	if len(parts) < 2 || parts[0] == "" || parts[1] == "" {
		return Descriptor{}, fmt.Errorf("%w: platform %q is not os/arch[/variant]", ErrInvalidName, clip(platform))
	}
	var have []string
	for _, m := range manifests {
		p := m.Platform
		if p == nil {
			continue
		}
		if p.OS == parts[0] && p.Architecture == parts[1] && (len(parts) < 3 || p.Variant == parts[2]) {
			return m, nil
		}
		have = append(have, strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
	}
	return Descriptor{}, fmt.Errorf("%w: no %s, but %s", ErrNoPlatform, platform, strings.Join(have, ", "))
}
