// Package facts finds out what a host is: processors, memory, disk, system,
// and what it can run. The supernode plans by these figures, so they say what
// a container can have here and not what stands on the machine's label: a limit
// of the cgroup that the whole system lives in counts.
//
// Looking is cheap and is done again and again (Keep); what cannot be found
// out is left out, since a host without a figure is better than none.
package facts
