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
// Who may do what is one function, decide, over plain values: who asks, where
// they stand in the project (the first path element of a repository), and what
// they ask for. System administrators make projects and may do everything;
// members may do what their role says; robots what they were made for, in
// their own project; everybody else nothing, but for pulling from projects
// that are public. Whoever may not see a project gets the same answer as if
// there were none.
package auth
