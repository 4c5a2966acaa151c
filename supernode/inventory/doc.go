// Package inventory is the supernode's book of the fleet: clusters, their
// pools with a price, a quota and the roles of people, and the servers of a
// pool with what they reported of themselves. It exists so that a machine that
// was asked for, adopted, or that came by itself is one record with one phase,
// whoever looks: who makes machines, who places containers and who counts
// costs all read and move the same one, by compare-and-set.
//
// It decides who may do what to a pool (May), and nothing else: it makes no
// machine, speaks to no host and knows of no container. Everything is in meta
// before it is told to anybody, so a supernode that is killed comes back to
// what it had promised. What a server is connected by is not kept here.
package inventory
