// Package cost knows what the fleet cost and who used it. It keeps intervals
// of use (a server was in a pool, a container ran on a server) in the
// metadata store, appends to them and never changes one that has ended, and
// answers by adding them up.
//
// All amounts are integers, in millionths of a currency's unit. The price of a
// server is spread over what ran on it and what nothing used, by the method of
// the largest remainder, so that the parts always make up the whole; there is
// no floating point anywhere. Amounts are made for each clock hour (UTC) by
// itself, so that the reports of two times that meet on an hour add up to the
// report of both.
//
// Limits: one currency is never turned into another. What a container has the
// right to use is counted, not what it used of that; one without limits costs
// nothing. The bytes of hosts are told by the hosts.
package cost

import "errors"

// Errors of this package; test for them with errors.Is.
var (
	// ErrInvalid says that a price, a budget or a question cannot be taken.
	ErrInvalid = errors.New("not a valid cost request")
	// ErrTooMuch says that an answer would take more memory than one may.
	ErrTooMuch = errors.New("too much to answer at once")
	// ErrNoBudget says that there is no such budget.
	ErrNoBudget = errors.New("no such budget")
)
