package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/shoalproject/shoal/e2e/cluster"
	"github.com/shoalproject/shoal/e2e/image"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// crew makes people: a role on the pool web and one in the project demo, "" for
// none.
func (f *fleet) crew(people map[string][2]string) {
	f.t.Helper()
	client := &http.Client{Transport: withBasic{f.supernode.Host.Transport(), cluster.AdminUser, f.supernode.Password}}
	users := shoalv1connect.NewUserServiceClient(client, f.supernode.URL+"/api")
	projects := shoalv1connect.NewProjectServiceClient(client, f.supernode.URL+"/api")
	for name, roles := range people {
		_, err := users.CreateUser(f.ctx, connect.NewRequest(&shoalv1.CreateUserRequest{Name: name, Password: passwordOf(name)}))
		if roles[1] != "" {
			_, err2 := projects.SetMember(f.ctx, connect.NewRequest(&shoalv1.SetMemberRequest{Project: "demo", User: name, Role: roles[1]}))
			err = errors.Join(err, err2)
		}
		if err != nil {
			f.t.Fatal(err)
		}
		if roles[0] != "" {
			f.must(cluster.AdminUser, "pool", "grant", "web", name, "--role", roles[0])
		}
		f.login(name, passwordOf(name))
	}
}

// TestFleetRoles is the matrix of who may do what to a pool and what runs
// there, with the command line that people use.
func TestFleetRoles(t *testing.T) {
	f := buildFleet(t, poolPlan{name: "web", tier: "light", engine: "memory", hosts: 2})
	f.push("demo/web", "v1", image.Spec{Line: "web", Layers: []int64{1 << 20}, Seed: 81})
	f.crew(map[string][2]string{
		"viewer": {"viewer", "guest"}, "deployer": {"deployer", "guest"}, "chief": {"admin", "guest"},
		"no-image": {"deployer", ""}, "no-pool": {"", "developer"},
	})
	ref := f.supernode.Ref("demo/web", "v1")
	f.must("deployer", "place", ref, "--name", "stays", "--pool", "web", "--replicas", "1", "--", "serve")
	everybody := []string{"viewer", "deployer", "chief", "no-image", "no-pool"}
	for _, c := range []struct {
		args []string // NAME stands for the one who asks
		want string   // the exit status of each of everybody
	}{
		{[]string{"pool", "show", "web"}, "0 0 0 0 4"},
		{[]string{"server", "show", "web-1"}, "0 0 0 0 4"},
		{[]string{"place", ref, "--name", "by-NAME", "--pool", "web", "--replicas", "1", "--", "serve"}, "3 0 0 4 4"},
		{[]string{"place", "show", "stays"}, "0 0 0 0 4"},
		{[]string{"place", "logs", "stays"}, "3 0 0 0 4"},
		{[]string{"place", "restart", "stays"}, "3 0 0 0 4"},
		{[]string{"place", "remove", "by-NAME"}, "4 0 0 4 4"},
		{[]string{"server", "drain", "web-2"}, "3 3 0 3 4"},
		{[]string{"server", "drain", "web-2", "--undo"}, "3 3 0 3 4"},
		{[]string{"pool", "grant", "web", "viewer", "--role", "viewer"}, "3 3 0 3 4"},
		{[]string{"pool", "set", "web", "--hourly", "0.40", "--currency", "EUR"}, "3 3 3 3 4"},
		{[]string{"pool", "create", "NAME", "--cluster", "rack-room"}, "3 3 3 3 3"},
		{[]string{"cluster", "add", "c-NAME", "--kind", "metal"}, "3 3 3 3 3"},
	} {
		var got []string
		said := ""
		for _, who := range everybody {
			args := strings.Split(strings.ReplaceAll(strings.Join(c.args, "\x00"), "NAME", who), "\x00")
			out, status := f.run(who, args...)
			got = append(got, fmt.Sprint(status))
			said += fmt.Sprintf("\n%s: %s", who, out)
		}
		if all := strings.Join(got, " "); all != c.want {
			t.Errorf("dfget %s by %s: exit statuses %s, want %s%s", strings.Join(c.args, " "), strings.Join(everybody, ", "), all, c.want, said)
		}
	}
	// The two rights that a placement needs are one decision, and one row.
	for who, rights := range map[string]string{"no-image": `"pull":"no"`, "viewer": `"deploy":"no"`} {
		rows := strings.ReplaceAll(f.must(cluster.AdminUser, "audit", "search", "--subject", who, "--action", "placement.place", "--json"), " ", "")
		if strings.Count(rows, `"placement.place"`) != 1 || !strings.Contains(rows, rights) {
			t.Errorf("what %s tried has the rows %s", who, rows)
		}
	}
}

// TestFleetCosts: what services used and what was idle is exactly what the
// servers cost.
func TestFleetCosts(t *testing.T) {
	f := buildFleet(t, poolPlan{name: "web", tier: "light", engine: "memory", hosts: 2, make: []string{"--hourly", "3600", "--currency", "EUR"}}) // a euro a second
	f.push("demo/web", "v1", image.Spec{Line: "web", Layers: []int64{1 << 20}, Seed: 82})
	f.must(cluster.AdminUser, "place", f.supernode.Ref("demo/web", "v1"), "--pool", "web", "--replicas", "2", "--cpu", "0.5", "--memory", "512MiB", "--", "serve")
	var cost shoalv1.GetCostResponse
	f.eventually(time.Minute, "something was used", func() bool {
		f.json(cluster.AdminUser, &cost, "cost", "--by", "service", "--from", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
		return len(cost.Pools) == 1 && cost.Pools[0].AllocatedMicro > 0
	})
	p := cost.Pools[0]
	if p.AllocatedMicro+p.IdleMicro != p.ServersMicro || p.IdleMicro <= 0 || p.Currency != "EUR" {
		t.Errorf("allocated %d + idle %d, servers %d %s", p.AllocatedMicro, p.IdleMicro, p.ServersMicro, p.Currency)
	}
	var rows int64
	for _, r := range cost.Rows {
		rows += r.AmountMicro
	}
	if rows != p.ServersMicro {
		t.Errorf("the rows add up to %d, the servers cost %d: %v", rows, p.ServersMicro, cost.Rows)
	}
}
