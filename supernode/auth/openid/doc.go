// Package openid asks an OpenID Connect provider who a person is, in the two
// ways that people come: by a browser (authorization code with PKCE, RFC 6749
// and RFC 7636) and from a terminal (device grant, RFC 8628). It believes the
// provider about nothing else: what somebody may do is decided by package
// auth, which also keeps the sessions.
//
// The provider's configuration is read when it is first needed, and again
// after a failure, so that a supernode starts while its provider is down. The
// client's secret goes to the provider's own endpoints alone: no redirect is
// followed, and plain HTTP is spoken with loopback only. Answers are bounded
// in size and time.
package openid
