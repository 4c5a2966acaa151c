// Package placement decides on which hosts of a pool the copies of a service
// run, and sees to it: the image is brought to all of those hosts, and to a
// few more, before anything is started.
//
// What is decided is pure: Make chooses hosts, wanted says what a record asks
// of each of them, judge whether the gate opens. What is done about it is a
// state machine whose every step is one commit to the metadata: a record says
// what is to be, and the hosts' records are brought in line with it. So a
// supernode that is killed between any two of them finishes or undoes what was
// begun. The hosts are reached through Engine; Agents speaks to agents, Memory
// is the twin in memory.
//
// Capacity is claimed on a host's own record, by compare, before the image is
// asked for. The claim of a container that may have run is let go when its host
// has said that the container is gone.
package placement
