package blob

import (
	"errors"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParseImage(t *testing.T) {
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for in, want := range map[string]string{
		"demo/app":                       " demo/app latest ",
		"demo/app:v1":                    " demo/app v1 ",
		"app":                            " app latest ",
		"docker.io/alpine:3":             "docker.io library/alpine 3 ",
		"docker.io/library/alpine":       "docker.io library/alpine latest ",
		"localhost/x/y:z":                "localhost x/y z ",
		"127.0.0.1:5000/x/y":             "127.0.0.1:5000 x/y latest ",
		"demo/app@" + d:                  " demo/app  " + d,
		"r.example.com:8001/a/b:t@" + d:  "r.example.com:8001 a/b t " + d,
		"r.example.com:8001/a/b/c/d:t.1": "r.example.com:8001 a/b/c/d t.1 ",
		"[::1]:5000/a:b":                 "[::1]:5000 a b ",
	} {
		i, err := ParseImage(in)
		got := i.Registry + " " + i.Repository + " " + i.Tag + " " + string(i.Digest)
		if err != nil || got != want {
			t.Errorf("ParseImage(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{
		"", d, "demo/app@sha256:00", "demo/app@", "a b", "demo/app?x=1", "docker.io/", "a:", "a:b c", "/a", "a//b",
		"../x", "A/b", "docker.io/../x", "r.example.com\n/a", "demo/app:v1@" + d + "x",
	} {
		if i, err := ParseImage(bad); err == nil {
			t.Errorf("ParseImage(%q) = %+v; want an error", bad, i)
		}
	}
	i, _ := ParseImage("app:v1")
	pinned, _ := ParseImage("app:v1@" + d)
	if i.Reference() != "v1" || pinned.Reference() != d {
		t.Errorf("references %q and %q", i.Reference(), pinned.Reference())
	}
}

// An image that was taken apart can be put together again.
func FuzzParseImage(f *testing.F) {
	for _, s := range []string{"app", "docker.io/alpine:3", "[::1]:5000/a:b", "a@sha256:00", "localhost/x", "a.b/c:d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseImage(s)
		if err != nil {
			return
		}
		whole := i.String()
		if i.Tag != "" {
			whole += ":" + i.Tag
		}
		if i.Digest != "" {
			whole += "@" + string(i.Digest)
		}
		again, err := ParseImage(whole)
		if err != nil || again != i {
			t.Errorf("%q is %+v, but %q is %+v, %v", s, i, whole, again, err)
		}
	})
}

func TestPickPlatform(t *testing.T) {
	of := func(digest, os, arch, variant string) Descriptor {
		return Descriptor{Digest: Digest(digest), Platform: &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}}
	}
	index := []Descriptor{{Digest: "none"}, of("amd", "linux", "amd64", ""), of("v7", "linux", "arm", "v7"), of("v8", "linux", "arm64", "v8")}
	for platform, want := range map[string]Digest{
		"linux/amd64": "amd", "linux/arm": "v7", "linux/arm/v7": "v7", "linux/arm64": "v8", "linux/arm64/v8": "v8",
	} {
		if got, err := PickPlatform(index, platform); err != nil || got.Digest != want {
			t.Errorf("%s: %s, %v; want %s", platform, got.Digest, err, want)
		}
	}
	for platform, want := range map[string]error{
		"linux/s390x": ErrNoPlatform, "linux/arm/v6": ErrNoPlatform, "linux": ErrInvalidName, "/amd64": ErrInvalidName, "": ErrInvalidName,
	} {
		if _, err := PickPlatform(index, platform); !errors.Is(err, want) {
			t.Errorf("%q: %v; want %v", platform, err, want)
		}
	}
}
