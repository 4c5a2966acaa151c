// Package token makes and checks the small texts that open doors: registry
// tokens (JWT, RFC 7519, with the access claim of the Docker and OCI token
// flow, https://distribution.github.io/distribution/spec/auth/jwt/), the
// scopes asked for, and join tokens.
//
// Registry tokens are signed with Ed25519 (RFC 8037) and nothing else: the
// algorithm, the kind and the set of keys are the verifier's, never the
// token's. A token is for one audience, so one for the registry opens no
// other door. An agent verifies with pinned keys and asks nobody.
package token
