package api

import (
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/placement"
)

// projectOfRepository is the first element of a repository's name.
func projectOfRepository(repository string) string {
	project, _, _ := strings.Cut(repository, "/")
	return project
}

func imageName(i blob.Image) string {
	name := i.Repository
	if i.Registry != "" {
		name = i.Registry + "/" + name
	}
	if i.Tag != "" {
		name += ":" + i.Tag
	}
	return name
}

// serviceMessage leaves the values of the environment out for who may only
// look: they are where secrets are.
func serviceMessage(s placement.Service, whole bool) *shoalv1.Service {
	out := &shoalv1.Service{
		Image: imageName(s.Image), Args: s.Args, Env: s.Env, CpuMilli: s.Need.CPU, MemoryBytes: s.Need.Memory, Ports: s.Need.Ports,
	}
	if !whole {
		out.Env = nil
		for _, e := range s.Env {
			name, _, _ := strings.Cut(e, "=")
			out.Env = append(out.Env, name+"=…")
		}
	}
	return out
}

func placementMessage(v placement.View, whole bool) *shoalv1.Placement {
	out := &shoalv1.Placement{
		Name: v.Name, Pool: v.Pool, Project: v.Project, Replicas: int32(v.Replicas), Spread: string(v.Spread), Tier: v.Tier,
		HardwareClass: v.Class, Tolerate: v.Tolerate, Phase: v.Phase, Reason: v.Reason, By: v.By, Created: timestamppb.New(v.Created),
		Healthy: int32(v.Healthy), Spares: int32(v.Spares), Prepulls: prepullMessages(v.Prepulls), Verdicts: verdictMessages(v.Verdicts),
	}
	for _, r := range v.Revisions {
		out.Revisions = append(out.Revisions, &shoalv1.PlacementRevision{
			Number: r.Number, Service: serviceMessage(r.Service, whole), Digest: r.Service.Digest, By: r.By, At: timestamppb.New(r.At),
		})
	}
	for _, c := range v.Known {
		one := &shoalv1.PlacedContainer{Id: c.ID, Server: c.Host, Revision: c.Revision, Status: v.Statuses[c.ID]}
		if !c.Ordered.IsZero() {
			one.Ordered = timestamppb.New(c.Ordered)
		}
		out.Containers = append(out.Containers, one)
	}
	return out
}

func prepullMessages(list []placement.Prepull) []*shoalv1.HostPrepull {
	var out []*shoalv1.HostPrepull
	for _, p := range list {
		one := &shoalv1.HostPrepull{Server: p.Host, BytesDone: p.Done, BytesTotal: p.Total, State: p.State, Error: p.Error}
		if !p.Asked.IsZero() {
			one.Asked = timestamppb.New(p.Asked)
		}
		if !p.Ready.IsZero() {
			one.Ready = timestamppb.New(p.Ready)
		}
		out = append(out, one)
	}
	return out
}

func verdictMessages(list []placement.Verdict) []*shoalv1.Verdict {
	var out []*shoalv1.Verdict
	for _, v := range list {
		out = append(out, &shoalv1.Verdict{Server: v.Name, Outcome: v.Outcome, Reason: v.Reason, MissingBytes: v.Missing})
	}
	return out
}

// updateMessage is how a change stands, for who may deploy on the pool; done
// when it is over. Of a placement on another pool, which has the name by now,
// nothing is told.
func updateMessage(v placement.View, pool, change string) *shoalv1.PlaceUpdate {
	out := &shoalv1.PlaceUpdate{}
	if v.Pool == pool {
		out = &shoalv1.PlaceUpdate{Phase: v.Phase, Verdicts: verdictMessages(v.Verdicts), Prepulls: prepullMessages(v.Prepulls), Placement: placementMessage(v, true)}
	}
	if v.Change != nil && v.Change.ID == change {
		out.Phase, out.Message = v.Change.Phase(), v.Change.Reason
		return out
	}
	out.Done = true
	if v.Ended.ID != change { // another change, or its removal, came over it
		out.Phase, out.Error = placement.PhaseFailed, "the placement was changed by somebody else meanwhile"
		return out
	}
	out.Phase = v.Ended.Outcome
	if v.Ended.Outcome != placement.EndedRunning {
		out.Error = v.Ended.Reason
	}
	return out
}
