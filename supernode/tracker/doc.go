// Package tracker names neighbours: it knows, for each digest, which nodes of
// this data centre hold it or want it. All of it is soft state in memory, told
// by the nodes themselves; when it is lost they tell it again.
//
// Work per event does not grow with the swarm: a node is named from random
// places of the lists of its rack, its zone and everybody, and a node that
// fell silent leaves when it is met. Digests are spread over shards, each with
// its own lock.
package tracker
