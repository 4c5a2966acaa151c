package api

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/auth"
)

// projectService is for everybody who is logged in: the auth gateway decides
// in each call whether the caller may do that to that project.
type projectService struct{ Config }

func (s projectService) CreateProject(ctx context.Context, req *connect.Request[shoalv1.CreateProjectRequest]) (*connect.Response[shoalv1.CreateProjectResponse], error) {
	p, err := s.Auth.CreateProject(ctx, userOf(ctx).User, req.Msg.Name, settingsOf(req.Msg.Settings))
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreateProjectResponse{Project: projectMessage(p, "", 0)}), nil
}

func (s projectService) DeleteProject(ctx context.Context, req *connect.Request[shoalv1.DeleteProjectRequest]) (*connect.Response[shoalv1.DeleteProjectResponse], error) {
	if err := s.Auth.DeleteProject(ctx, userOf(ctx).User, req.Msg.Name, s.Registry); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.DeleteProjectResponse{}), nil
}

func (s projectService) ListProjects(ctx context.Context, _ *connect.Request[shoalv1.ListProjectsRequest]) (*connect.Response[shoalv1.ListProjectsResponse], error) {
	list, roles, err := s.Auth.Projects(ctx, userOf(ctx).User)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListProjectsResponse{}
	for i, p := range list {
		used, err := s.Registry.Usage(ctx, p.Name)
		if err != nil {
			return nil, coded(err)
		}
		out.Projects = append(out.Projects, projectMessage(p, roles[i], used))
	}
	return connect.NewResponse(out), nil
}

func (s projectService) GetProject(ctx context.Context, req *connect.Request[shoalv1.GetProjectRequest]) (*connect.Response[shoalv1.GetProjectResponse], error) {
	p, role, err := s.Auth.Project(ctx, userOf(ctx).User, req.Msg.Name)
	if err != nil {
		return nil, coded(err)
	}
	used, err := s.Registry.Usage(ctx, p.Name)
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.GetProjectResponse{Project: projectMessage(p, role, used)}), nil
}

func (s projectService) SetSettings(ctx context.Context, req *connect.Request[shoalv1.SetSettingsRequest]) (*connect.Response[shoalv1.SetSettingsResponse], error) {
	m := req.Msg
	p, err := s.Auth.SetSettings(ctx, userOf(ctx).User, m.Project, func(to *auth.Settings) {
		if m.Public != nil {
			to.Public = *m.Public
		}
		if m.DevelopersDelete != nil {
			to.DevelopersDelete = *m.DevelopersDelete
		}
		if m.SetImmutableTags {
			to.ImmutableTags = m.ImmutableTags
		}
		if m.QuotaBytes != nil {
			to.QuotaBytes = *m.QuotaBytes
		}
	})
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetSettingsResponse{Project: projectMessage(p, "", 0)}), nil
}

func (s projectService) SetMember(ctx context.Context, req *connect.Request[shoalv1.SetMemberRequest]) (*connect.Response[shoalv1.SetMemberResponse], error) {
	m := req.Msg
	if err := s.Auth.SetMember(ctx, userOf(ctx).User, m.Project, m.User, auth.Role(m.Role)); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetMemberResponse{}), nil
}

func (s projectService) RemoveMember(ctx context.Context, req *connect.Request[shoalv1.RemoveMemberRequest]) (*connect.Response[shoalv1.RemoveMemberResponse], error) {
	if err := s.Auth.RemoveMember(ctx, userOf(ctx).User, req.Msg.Project, req.Msg.User); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemoveMemberResponse{}), nil
}

func (s projectService) ListMembers(ctx context.Context, req *connect.Request[shoalv1.ListMembersRequest]) (*connect.Response[shoalv1.ListMembersResponse], error) {
	list, err := s.Auth.Members(ctx, userOf(ctx).User, req.Msg.Project)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListMembersResponse{}
	for _, m := range list {
		out.Members = append(out.Members, &shoalv1.Member{User: m.User, Role: string(m.Role), Since: timestamppb.New(m.Since), By: m.By})
	}
	return connect.NewResponse(out), nil
}

func (s projectService) GrantPool(ctx context.Context, req *connect.Request[shoalv1.GrantPoolRequest]) (*connect.Response[shoalv1.GrantPoolResponse], error) {
	if err := s.Auth.GrantPool(ctx, userOf(ctx).User, req.Msg.Project, req.Msg.Pool); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.GrantPoolResponse{}), nil
}

func (s projectService) RevokePool(ctx context.Context, req *connect.Request[shoalv1.RevokePoolRequest]) (*connect.Response[shoalv1.RevokePoolResponse], error) {
	if err := s.Auth.RevokePool(ctx, userOf(ctx).User, req.Msg.Project, req.Msg.Pool); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RevokePoolResponse{}), nil
}

func (s projectService) ListPoolGrants(ctx context.Context, req *connect.Request[shoalv1.ListPoolGrantsRequest]) (*connect.Response[shoalv1.ListPoolGrantsResponse], error) {
	list, err := s.Auth.PoolGrants(ctx, userOf(ctx).User, req.Msg.Project)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListPoolGrantsResponse{}
	for _, g := range list {
		out.Grants = append(out.Grants, &shoalv1.PoolGrant{Pool: g.Pool, Since: timestamppb.New(g.Since), By: g.By})
	}
	return connect.NewResponse(out), nil
}

func (s projectService) CreateRobot(ctx context.Context, req *connect.Request[shoalv1.CreateRobotRequest]) (*connect.Response[shoalv1.CreateRobotResponse], error) {
	m := req.Msg
	robot, secret, err := s.Auth.CreateRobot(ctx, userOf(ctx).User, m.Project, m.Name, m.Permissions, seconds(m.TtlSeconds))
	if err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.CreateRobotResponse{Robot: robotMessage(robot), Secret: secret}), nil
}

// seconds is a duration, or a negative one when there is none so long.
func seconds(n int64) time.Duration {
	if n > int64(1<<63-1)/int64(time.Second) {
		return -1
	}
	return time.Duration(n) * time.Second
}

func (s projectService) SetRobotDisabled(ctx context.Context, req *connect.Request[shoalv1.SetRobotDisabledRequest]) (*connect.Response[shoalv1.SetRobotDisabledResponse], error) {
	m := req.Msg
	if err := s.Auth.SetRobotDisabled(ctx, userOf(ctx).User, m.Project, m.Name, m.Disabled); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.SetRobotDisabledResponse{}), nil
}

func (s projectService) RemoveRobot(ctx context.Context, req *connect.Request[shoalv1.RemoveRobotRequest]) (*connect.Response[shoalv1.RemoveRobotResponse], error) {
	if err := s.Auth.RemoveRobot(ctx, userOf(ctx).User, req.Msg.Project, req.Msg.Name); err != nil {
		return nil, coded(err)
	}
	return connect.NewResponse(&shoalv1.RemoveRobotResponse{}), nil
}

func (s projectService) ListRobots(ctx context.Context, req *connect.Request[shoalv1.ListRobotsRequest]) (*connect.Response[shoalv1.ListRobotsResponse], error) {
	list, err := s.Auth.Robots(ctx, userOf(ctx).User, req.Msg.Project)
	if err != nil {
		return nil, coded(err)
	}
	out := &shoalv1.ListRobotsResponse{}
	for _, r := range list {
		out.Robots = append(out.Robots, robotMessage(r))
	}
	return connect.NewResponse(out), nil
}

func settingsOf(m *shoalv1.ProjectSettings) auth.Settings {
	return auth.Settings{
		Public: m.GetPublic(), DevelopersDelete: m.GetDevelopersDelete(), ImmutableTags: m.GetImmutableTags(), QuotaBytes: m.GetQuotaBytes(),
	}
}

func projectMessage(p auth.Project, role auth.Role, used int64) *shoalv1.Project {
	return &shoalv1.Project{
		Name: p.Name, Creator: p.Creator, Created: timestamppb.New(p.Created), Epoch: p.Epoch, Role: string(role), UsedBytes: used,
		Settings: &shoalv1.ProjectSettings{
			Public: p.Settings.Public, DevelopersDelete: p.Settings.DevelopersDelete,
			ImmutableTags: p.Settings.ImmutableTags, QuotaBytes: p.Settings.QuotaBytes,
		},
	}
}

func robotMessage(r auth.Robot) *shoalv1.Robot {
	return &shoalv1.Robot{
		Project: r.Project, Name: r.Name, Login: r.Login(), Permissions: r.May, Creator: r.Creator, Disabled: r.Disabled,
		Created: timestamppb.New(r.Created), Expires: timestamppb.New(r.Expires),
	}
}
