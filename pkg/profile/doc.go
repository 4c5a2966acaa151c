// Package profile makes a host ready for its pool: a profile is an ordered
// list of named steps, each of which can look whether it holds and make it
// hold. It exists because "ready" has to mean the same on a thousand hosts, and
// has to be found out on each of them again and again: what is in place is
// never touched, what was changed by hand is found and told.
//
// Run decides the order and nothing else; the kinds of steps stand in files of
// their own (step_*.go) and get all that they touch from a Host, whose root may
// be any folder. A step never overwrites a file that somebody else wrote, puts
// nothing secret into what it tells, and is safe to repeat after a power cut at
// any point. What a profile says comes from the pool's administrators, who rule
// its hosts anyway: settings are checked for sense, not for good will.
package profile
