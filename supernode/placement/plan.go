package placement

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/shoalproject/shoal/pkg/blob"
)

// ErrNoRoom is wrapped when fewer hosts fit than are needed.
var ErrNoRoom = errors.New("too few hosts fit")

// MaxClaims bounds the containers of one host.
const MaxClaims = 64

// The tiers of services and of hosts.
const (
	TierCore  = "core"
	TierLight = "light"
)

// Spread says what keeps the containers of a service apart.
type Spread string

// The spreads. Packed fills one host after the other.
const (
	Packed     Spread = ""
	SpreadHost Spread = "host"
	SpreadRack Spread = "rack"
	SpreadZone Spread = "zone"
)

// phaseReady is the inventory's word for a server that passed its checks.
const phaseReady = "ready"

// Need is what one container takes from its host. 0 takes nothing and is not
// limited.
type Need struct {
	CPU    int64   `json:"cpu,omitempty"`    // thousandths of a core
	Memory int64   `json:"memory,omitempty"` // bytes
	Ports  []int32 `json:"ports,omitempty"`  // TCP, on the host
}

// plus is what two containers take together.
func (n Need) plus(other Need) Need {
	n.CPU, n.Memory = sum(n.CPU, other.CPU), sum(n.Memory, other.Memory)
	n.Ports = slices.Concat(n.Ports, other.Ports)
	return n
}

// sum is a+b of what is not negative. What does not fit is the largest number,
// and so over any quota: a host may say that it is of any size.
func sum(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Part is a blob of an image.
type Part struct {
	Digest blob.Digest
	Size   int64 // bytes
}

// Host is a server as far as placing goes.
type Host struct {
	Server string // its ID
	Name   string
	PeerID string
	Pool   string
	// Phase is the inventory's; only a ready server is given anything new.
	Phase     string
	Connected bool
	Engine    string // "": it runs no containers
	Platform  string // os/arch
	Tier      string
	Class     string
	Taints    []string
	Rack      string
	Zone      string
	CPU       int64 // all of it, in thousandths of a core
	Memory    int64 // all of it, in bytes
	DiskFree  int64 // bytes, where images go; 0: not known
	// Holds are the blobs that it is known to have, of those that are asked
	// about.
	Holds map[blob.Digest]bool
	// Unpacked: the whole image is there and could be started at once.
	Unpacked bool

	// used is what is claimed, containers how many claims that are.
	used       Need
	containers int
}

// label is a server as people know it.
func (h Host) label() string { return cmp.Or(h.Name, h.Server) }

// Request asks for hosts.
type Request struct {
	Pool     string
	Replicas int // how many more containers
	Spares   int // how many more hosts get the image
	Need     Need
	Tier     string // core or light
	Class    string // "": any
	Tolerate []string
	Spread   Spread
	// Platforms that the image is for, as os/arch[/variant]; none: not known.
	Platforms []string
	Parts     []Part
	// Has counts the containers of this service by server.
	Has map[string]int
	// Avoid names servers that were tried, and why they are out.
	Avoid map[string]string
	// Room is what the pool's quota leaves; nil: it has none.
	Room *Need
	// Partly takes as many hosts as there are, if there is one.
	Partly bool
}

// The outcomes of a Verdict.
const (
	OutcomeChosen  = "chosen"
	OutcomeSpare   = "spare"
	OutcomeRank    = "rank"
	OutcomeRefused = "refused"
)

// Verdict says why a host was taken, or was not.
type Verdict struct {
	Server  string `json:"server"`
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	Missing int64  `json:"missing,omitempty"` // bytes of the image
}

// Plan is what was decided.
type Plan struct {
	// Chosen has a server for each container; one may be named more than once.
	Chosen []string
	// Spares are further servers that get the image, the best first, and Rest
	// those that fit as well.
	Spares, Rest []string
	// Verdicts are about every host, by name.
	Verdicts []Verdict
}

// candidate is a host that fits, while containers are dealt out.
type candidate struct {
	Host
	missing int64 // bytes of the image that it lacks
	far     int64 // the same, weighed by how far away the next holder is
	taken   int   // containers that this plan puts here
	has     int   // of this service, those of this plan among them
	group   string
}

// Make decides. The same hosts in any order give the same plan. The error
// wraps ErrNoRoom; the verdicts are then set all the same.
func Make(r Request, hosts []Host) (Plan, error) {
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b Host) int { return strings.Compare(a.Server, b.Server) })
	verdicts := make(map[string]Verdict, len(hosts))
	near := holders(r.Parts, hosts)
	var fit []*candidate
	for _, h := range hosts {
		c := weigh(r, h, near)
		if why := cmp.Or(refusal(r, h), c.full()); why != "" {
			verdicts[h.Server] = Verdict{Server: h.Server, Name: h.label(), Outcome: OutcomeRefused, Reason: why, Missing: c.missing}
			continue
		}
		fit = append(fit, c)
	}
	var p Plan
	groups := groupCounts(r, hosts)
	for range min(r.Replicas, allowed(r.Room, r.Need)) {
		best := pick(r, fit, groups)
		if best == nil {
			break
		}
		best.take(r.Need)
		groups[best.group]++
		p.Chosen = append(p.Chosen, best.Server)
	}
	short := len(p.Chosen) < r.Replicas && (!r.Partly || len(p.Chosen) == 0)
	p.rank(r, fit, verdicts, short)
	for _, h := range hosts {
		p.Verdicts = append(p.Verdicts, verdicts[h.Server])
	}
	slices.SortStableFunc(p.Verdicts, func(a, b Verdict) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Server, b.Server))
	})
	if short {
		err := shortage(r, p, len(fit))
		p.Chosen, p.Spares, p.Rest = nil, nil, nil
		return p, err
	}
	return p, nil
}

// shortage says what is lacking.
func shortage(r Request, p Plan, fit int) error {
	if most := allowed(r.Room, r.Need); most < r.Replicas && most <= len(p.Chosen) {
		return fmt.Errorf("%w: room for %d of %d containers, the quota of pool %s leaves no more", ErrNoRoom, most, r.Replicas, r.Pool)
	}
	return fmt.Errorf("%w: room for %d of %d containers, on %d of the %d hosts of pool %s", ErrNoRoom, len(p.Chosen), r.Replicas, fit, len(p.Verdicts), r.Pool)
}

// rank puts those that were not chosen in order and writes the verdicts.
func (p *Plan) rank(r Request, fit []*candidate, verdicts map[string]Verdict, short bool) {
	order := slices.Clone(fit)
	slices.SortFunc(order, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.missing, b.missing), cmp.Compare(a.far, b.far), strings.Compare(a.Server, b.Server))
	})
	for _, c := range order {
		v := Verdict{Server: c.Server, Name: c.label(), Missing: c.missing, Reason: c.describe(r)}
		switch {
		case c.taken > 0 && short:
			v.Outcome, v.Reason = OutcomeRank, fmt.Sprintf("takes %d; %s", c.taken, v.Reason)
		case c.taken > 0:
			v.Outcome = OutcomeChosen
			if c.taken > 1 {
				v.Reason = fmt.Sprintf("takes %d; %s", c.taken, v.Reason)
			}
		case len(p.Spares) < r.Spares:
			v.Outcome = OutcomeSpare
			p.Spares = append(p.Spares, c.Server)
		default:
			v.Outcome = OutcomeRank
			p.Rest = append(p.Rest, c.Server)
		}
		verdicts[c.Server] = v
	}
}

// describe says how a host that fits stands.
func (c *candidate) describe(r Request) string {
	image := fmt.Sprintf("lacks %d bytes of the image", c.missing)
	if c.Unpacked {
		image = "has the image unpacked"
	} else if c.missing == 0 && len(r.Parts) > 0 {
		image = "holds the whole image"
	}
	return fmt.Sprintf("%s; %dm of CPU and %d MiB are free", image, c.CPU-c.used.CPU, (c.Memory-c.used.Memory)>>20)
}

// allowed is how many containers a quota leaves room for.
func allowed(room *Need, n Need) int {
	const unlimited = 1 << 30
	most := int64(unlimited)
	if room != nil && n.CPU > 0 {
		most = min(most, max(room.CPU, 0)/n.CPU)
	}
	if room != nil && n.Memory > 0 {
		most = min(most, max(room.Memory, 0)/n.Memory)
	}
	return int(most)
}

// refusal says why a host is out of question; "" when it is not.
func refusal(r Request, h Host) string {
	for _, taint := range h.Taints {
		if !slices.Contains(r.Tolerate, taint) {
			return fmt.Sprintf("has the taint %q, which is not tolerated", taint)
		}
	}
	switch why := r.Avoid[h.Server]; {
	case h.Pool != r.Pool:
		return fmt.Sprintf("is in pool %q", h.Pool)
	case h.Phase != phaseReady:
		return "is " + cmp.Or(h.Phase, "in no phase")
	case !h.Connected:
		return "is not connected"
	case h.Engine == "":
		return "runs no containers: start its agent with --engine"
	case why != "":
		return why
	case !suits(r.Platforms, h.Platform):
		return fmt.Sprintf("is %s, the image is for %s", cmp.Or(h.Platform, "of no known platform"), strings.Join(r.Platforms, ", "))
	case r.Tier == TierCore && h.Tier != TierCore:
		return "takes light services only"
	case r.Class != "" && h.Class != r.Class:
		return fmt.Sprintf("is of hardware class %q, not %q", h.Class, r.Class)
	}
	return crowded(r.Need, h)
}

// full says why a host has no room for the image; there may be none even when
// it says nothing, since an unpacked image takes more.
func (c *candidate) full() string {
	if c.DiskFree > 0 && c.missing > c.DiskFree {
		return fmt.Sprintf("lacks %d bytes of the image, %d bytes of disk are free", c.missing, c.DiskFree)
	}
	return ""
}

// crowded says why a host has no room for one more container.
func crowded(n Need, h Host) string {
	if h.containers >= MaxClaims {
		return fmt.Sprintf("holds %d containers, as many as one host may", h.containers)
	}
	if free := h.CPU - h.used.CPU; n.CPU > free {
		return fmt.Sprintf("needs %dm of CPU, %dm of %dm are free", n.CPU, max(free, 0), h.CPU)
	}
	if free := h.Memory - h.used.Memory; n.Memory > free {
		return fmt.Sprintf("needs %d MiB of memory, %d of %d MiB are free", n.Memory>>20, max(free, 0)>>20, h.Memory>>20)
	}
	for _, port := range n.Ports {
		if slices.Contains(h.used.Ports, port) {
			return fmt.Sprintf("port %d is taken there", port)
		}
	}
	return ""
}

// suits reports whether an image for these platforms runs on a host.
func suits(platforms []string, host string) bool {
	for _, p := range platforms {
		if p == host || strings.HasPrefix(p, host+"/") {
			return true
		}
	}
	return len(platforms) == 0
}

// pick is the best host for one more container, nil when none has room. Kept
// apart comes first where that was asked for; then the host that lacks the
// least, then the one whose neighbours have what it lacks. What is equal is
// packed.
func pick(r Request, fit []*candidate, groups map[string]int) *candidate {
	var best *candidate
	for _, c := range fit {
		if c.taken > 0 && crowded(r.Need, c.Host) != "" {
			continue
		}
		if best == nil || better(r, c, best, groups) < 0 {
			best = c
		}
	}
	return best
}

func better(r Request, a, b *candidate, groups map[string]int) int {
	apart := 0
	if r.Spread != Packed {
		apart = cmp.Or(cmp.Compare(groups[a.group], groups[b.group]), cmp.Compare(a.has, b.has))
	}
	return cmp.Or(apart,
		cmp.Compare(a.lacks(), b.lacks()),
		cmp.Compare(a.away(), b.away()),
		cmp.Compare(b.share(), a.share()),
		strings.Compare(a.Server, b.Server))
}

// lacks is what one more container here would have to fetch.
func (c *candidate) lacks() int64 {
	if c.taken > 0 {
		return 0
	}
	return c.missing
}

func (c *candidate) away() int64 {
	if c.taken > 0 {
		return 0
	}
	return c.far
}

// share is how full the host is, in thousandths, by what is scarcer.
func (c *candidate) share() int64 {
	var cpu, memory int64
	if c.CPU > 0 {
		cpu = c.used.CPU * 1000 / c.CPU
	}
	if c.Memory >= 1<<20 {
		memory = (c.used.Memory >> 20) * 1000 / (c.Memory >> 20)
	}
	return max(cpu, memory)
}

func (c *candidate) take(n Need) {
	c.used = c.used.plus(n)
	c.containers++
	c.taken++
	c.has++
}

// groupOf is what the spread counts by: a host without a rack or zone stands
// in one without a name.
func groupOf(s Spread, h Host) string {
	switch s {
	case SpreadRack:
		return h.Zone + "/" + h.Rack
	case SpreadZone:
		return h.Zone
	}
	return h.Server
}

func groupCounts(r Request, hosts []Host) map[string]int {
	groups := map[string]int{}
	for _, h := range hosts {
		groups[groupOf(r.Spread, h)] += r.Has[h.Server]
	}
	return groups
}

// The distances of the next holder of a blob.
const (
	inRack = 1 + iota
	inZone
	inPool
	outside
)

// nearness knows who holds a blob: "rack zone/rack", "zone zone" and "pool".
type nearness map[blob.Digest]map[string]bool

func holders(parts []Part, hosts []Host) nearness {
	near := make(nearness, len(parts))
	for _, p := range parts {
		near[p.Digest] = map[string]bool{}
		for _, h := range hosts {
			if h.Connected && (h.Holds[p.Digest] || h.Unpacked) {
				near[p.Digest]["rack "+groupOf(SpreadRack, h)] = true
				near[p.Digest]["zone "+h.Zone] = true
				near[p.Digest]["pool"] = true
			}
		}
	}
	return near
}

func weigh(r Request, h Host, near nearness) *candidate {
	c := &candidate{Host: h, has: r.Has[h.Server], group: groupOf(r.Spread, h)}
	if h.Unpacked {
		return c
	}
	for _, p := range r.Parts {
		if h.Holds[p.Digest] {
			continue
		}
		c.missing += p.Size
		distance := int64(outside)
		switch by := near[p.Digest]; {
		case by["rack "+groupOf(SpreadRack, h)]:
			distance = inRack
		case by["zone "+h.Zone]:
			distance = inZone
		case by["pool"]:
			distance = inPool
		}
		c.far += p.Size * distance
	}
	return c
}
