// Package auth is the supernode's outer gate: nothing is served without a
// login. It knows users (argon2id passwords), gives out registry tokens at
// /token, keeps the console's sessions, and lets nodes join, renew and be
// turned away.
//
// Secrets are stored as hashes only: passwords under argon2id, everything that
// was drawn at random with 256 bits (refresh tokens, sessions, join tokens)
// under SHA-256. None of them appears in an error or a log line, and neither
// does a user name that nobody has, since it may be a password in the wrong
// field.
//
// Who may do what is one function, decide. Roles for now: an admin may do
// everything, every other user may pull and push everywhere.
package auth
