// Package runtime holds the few words that the container runtimes share. What
// a runtime has already pulled need not be stored twice: its content store is
// read in place, served to neighbours from there, and watched, so that the
// swarm learns what comes and goes.
//
// pkg/runtime/containerd speaks with containerd 1.6 and 2.x, pkg/runtime/docker
// with Docker, and pkg/runtime/runtimetest holds a twin in memory and the
// suite that both it and the real thing pass.
package runtime

import "github.com/shoalproject/shoal/pkg/blob"

// Event says that a blob came to the runtime's content store, or left it.
type Event struct {
	Digest blob.Digest
	Size   int64 // bytes; 0 when Gone
	Gone   bool
}

// Content is one blob in the runtime's content store.
type Content struct {
	Digest blob.Digest
	Size   int64 // bytes
}

// Credential is what a registry's token endpoint is shown. An empty Username
// with a Secret means a refresh token.
type Credential struct{ Username, Secret string }

// Pull asks a runtime to pull an image through this host's mirror.
type Pull struct {
	// Image is a reference as people write it: "nginx", "r.example.com/a:v1".
	Image string
	// Platform is os/arch[/variant]; empty means this host's.
	Platform string
	// Credential is for the registry of the image. Nil: ask without.
	Credential *Credential
	// Token is shown to the mirror with each request, instead of a Credential.
	Token string
	// Unpack makes the image ready to run, not only present.
	Unpack bool
	// Progress is told of bytes present and bytes known to be wanted, which
	// grow as manifests are read. It is called from one goroutine at a time.
	Progress func(done, total int64)
}
