// Package differential holds the registry against another implementation of
// the OCI distribution-spec: distribution, as it is released. Random requests,
// valid and invalid, go to both; where the specification decides, the answers
// must be the same. Where they may differ, or must because one of the two is
// wrong, the table in table_test.go says so, with the reason, and an entry
// that is never seen fails the test.
//
// It is a module of its own so that nothing of distribution can ever be linked
// into a program of this repository. What it does not cover: time, concurrency,
// and rights, which the two have in different ways.
package differential
