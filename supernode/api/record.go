package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/shoalproject/shoal/pkg/blob"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/audit"
	"github.com/shoalproject/shoal/supernode/auth"
	"github.com/shoalproject/shoal/supernode/inventory"
)

const (
	// operator is the audit's subject for who may open the data folder.
	operator = "(operator)"
	// callsPackage is the protobuf package of all services.
	callsPackage = "shoal.v1."
)

// Deeds puts what the auth gateway tells into the audit.
func Deeds(to *audit.Log) func(context.Context, auth.Deed) {
	return func(_ context.Context, d auth.Deed) {
		to.Record(audit.Event{
			Subject: d.Subject, Action: d.Action, Object: d.Object, Project: d.Project, From: d.From,
			Allowed: d.Allowed, Reason: d.Reason, Detail: d.Detail, Often: d.Often,
		})
	}
}

// recorder gives every call of a service a row in the audit.
type recorder struct{ Config }

// recorded are the options of every service that needs a login.
func (c Config) recorded() connect.HandlerOption {
	return connect.WithHandlerOptions(connect.WithReadMaxBytes(maxMessage), connect.WithInterceptors(recorder{c}))
}

// WrapUnary implements connect.Interceptor.
func (c recorder) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		ctx = withSaid(ctx)
		answer, err := next(ctx, request)
		c.recordCall(ctx, request.Spec().Procedure, request.Any(), err)
		return answer, err
	}
}

// WrapStreamingClient implements connect.Interceptor; the supernode is none.
func (c recorder) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (c recorder) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx = withSaid(ctx)
		heard := &heardConn{StreamingHandlerConn: conn}
		heard.record = func(err error) { c.recordCall(ctx, conn.Spec().Procedure, heard.request, err) }
		err := next(ctx, heard)
		heard.once(err)
		return err
	}
}

// heardConn keeps the request of a call that streams its answer. The call has
// its row as soon as it answers at all: by then it was allowed and what it
// changes is written down. A supernode that dies before the end of the answer,
// or a caller who does not wait for that, takes nothing out of the audit.
type heardConn struct {
	connect.StreamingHandlerConn
	request  any
	record   func(error)
	recorded bool
}

// once gives the call its row, unless it has one.
func (h *heardConn) once(err error) {
	if !h.recorded {
		h.recorded = true
		h.record(err)
	}
}

// Send implements connect.StreamingHandlerConn.
func (h *heardConn) Send(message any) error {
	h.once(nil)
	return h.StreamingHandlerConn.Send(message)
}

// Receive implements connect.StreamingHandlerConn.
func (h *heardConn) Receive(message any) error {
	err := h.StreamingHandlerConn.Receive(message)
	if err == nil {
		h.request = message
	}
	return err
}

// saidKey marks what a call says about itself for its row, beside the fields
// of its request. It is the call's own goroutine's.
type saidKey struct{}

func withSaid(ctx context.Context) context.Context {
	return context.WithValue(ctx, saidKey{}, map[string]string{})
}

// say puts something into the row of the call that ctx belongs to.
func say(ctx context.Context, name, value string) {
	if said, ok := ctx.Value(saidKey{}).(map[string]string); ok {
		said[name] = value
	}
}

// ownCalls have no row here: what they change the auth gateway tells itself,
// and who one is oneself is nobody's business.
var ownCalls = []string{"ChangePassword", "WhoAmI"}

func (c Config) recordCall(ctx context.Context, procedure string, request any, err error) {
	method := procedure[strings.LastIndexByte(procedure, '/')+1:]
	if slices.Contains(ownCalls, method) {
		return
	}
	said, _ := ctx.Value(saidKey{}).(map[string]string)
	e := callEvent(method, request)
	if said["project"] != "" {
		e.Project = said["project"]
	}
	delete(said, "project")
	if "pool:"+said["pool"] == e.Object {
		delete(said, "pool")
	}
	maps.Copy(e.Detail, said)
	by := userOf(ctx)
	e.Subject, e.From = by.Name, by.from()
	e.Allowed = !refused(err)
	if err != nil {
		e.Reason = connect.CodeOf(err).String()
	}
	c.Audit.Record(e)
}

// recordDoor gives a call a row that was turned away before anybody looked at
// what it asks for; by has no name when that is not known.
func (c Config) recordDoor(r *http.Request, by auth.User, code connect.Code) {
	e := audit.Event{Action: "call.unknown", Object: "service", Subject: by.Name, From: hostOf(r.RemoteAddr), Reason: code.String()}
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/"), "/", "."))
	if d, err := protoregistry.GlobalFiles.FindDescriptorByName(name); err == nil && strings.HasPrefix(string(name), callsPackage) {
		e.Action, e.Object = actionOf(string(d.Name())), string(d.Parent().Name())
	}
	c.Audit.Record(e)
}

// refused reports whether an error says that somebody had no right, in
// whatever words they were told so.
func refused(err error) bool {
	if err == nil {
		return false
	}
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeResourceExhausted:
		return true
	}
	return errors.Is(err, auth.ErrNoProject) || errors.Is(err, inventory.ErrNoPool) || errors.Is(err, inventory.ErrNoServer)
}

// toldFields are the fields of requests that the audit may hold. No other is
// looked at, so that a field with a secret has to be named here to leak.
var toldFields = map[protoreflect.Name]bool{
	"address": true, "admin": true, "alarms": true, "all": true, "by": true, "cluster": true, "container": true, "count": true, "currency": true, "developers_delete": true,
	"digest": true, "disabled": true, "dry_run": true, "everybody": true, "force": true, "format": true,
	"hardware_class": true, "id": true, "image": true, "images": true, "immutable_tags": true, "keep": true, "keep_days": true,
	"keep_last": true, "kind": true, "monthly_micro": true, "name": true, "peer_id": true, "permissions": true, "pool": true, "profile": true,
	"project": true, "public": true, "quota_bytes": true, "remove": true, "replicas": true, "repositories": true, "revision": true, "role": true,
	"scope": true, "servers": true, "sign_after_seconds": true, "taint": true, "taints": true, "tier": true, "ttl_seconds": true,
	"undo": true, "user": true, "uses": true,
}

// callEvent says what a call did to what. Reading is done often.
func callEvent(method string, request any) audit.Event {
	told := map[string]string{}
	if m, ok := request.(proto.Message); ok {
		tell(told, m.ProtoReflect(), 2)
	}
	action := actionOf(method)
	noun, verb, _ := strings.Cut(action, ".")
	e := audit.Event{Action: action, Often: slices.Contains([]string{"list", "get", "search"}, verb), Detail: told}
	thing, _, _ := strings.Cut(noun, "-")
	switch thing {
	case "taint", "fleet":
		thing = "server"
	case "logs":
		thing = "placement"
	}
	if thing == "project" && told["project"] == "" {
		told["project"] = told["name"]
		delete(told, "name")
	}
	e.Project = told["project"]
	for _, of := range [][2]string{{"id", thing}, {"name", thing}, {"scope", thing}, {"user", "user"}, {"peer_id", "node"}, {"images", "image"}, {"project", "project"}, {"pool", "pool"}} {
		if value := told[of[0]]; value != "" {
			e.Object = of[1] + ":" + value
			delete(told, of[0])
			break
		}
	}
	delete(told, "project")
	return e
}

// tell collects the fields that may be told, those of nested messages too.
func tell(told map[string]string, m protoreflect.Message, deep int) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
		case f.Message() != nil && !f.IsList() && deep > 0:
			tell(told, v.Message(), deep-1)
		case f.Message() != nil || !toldFields[f.Name()]:
		case f.IsList():
			var all []string
			for i := range min(v.List().Len(), 20) {
				all = append(all, v.List().Get(i).String())
			}
			told[string(f.Name())] = strings.Join(all, " ")
		default:
			told[string(f.Name())] = fmt.Sprint(v.Interface())
		}
		return true
	})
}

// actionOf makes the audit's word of a call's name: SetMember is member.set.
func actionOf(method string) string {
	var words []string
	for i, c := range method {
		if i == 0 || unicode.IsUpper(c) {
			words = append(words, "")
		}
		words[len(words)-1] += string(unicode.ToLower(c))
	}
	if len(words) < 2 && words[0] == "place" {
		return "placement.place"
	}
	if len(words) < 2 {
		return "supernode." + strings.Join(words, "")
	}
	return strings.Join(words[1:], "-") + "." + words[0]
}

// joinEvent tells of a node that came with a join token.
func joinEvent(m *shoalv1.JoinRequest, from string, joined auth.Joined, err error) audit.Event {
	e := audit.Event{Action: "node.join", From: from, Allowed: err == nil}
	if err != nil {
		e.Reason = connect.CodeOf(coded(err)).String()
		return e
	}
	e.Subject, e.Object = nodeSubject(joined.PeerID), "pool:"+joined.Pool
	e.Detail = map[string]string{"hostname": m.Hostname}
	return e
}

// piecesEvent tells of a node that asked for a blob's pieces, which it does
// again and again while it fetches.
func piecesEvent(from caller, d blob.Digest, repository string, may bool) audit.Event {
	e := audit.Event{Subject: nodeSubject(from.PeerID), Action: "pieces.pull", Object: repository, From: from.host, Allowed: may, Often: true}
	e.Project, _, _ = strings.Cut(repository, "/")
	if !may {
		e.Object, e.Reason = repository+"@"+string(d), "no right to it, or no repository here holds it"
	}
	return e
}

// toldEvent is a row by a node's word: the address is the node's own, and the
// words in round brackets are not the node's to say.
func toldEvent(from caller, p *shoalv1.ToldPull) audit.Event {
	e := audit.Event{
		Subject: p.Subject, Action: "image.pull", Object: p.Repository, From: from.host, Allowed: !p.Refused, Often: true, Times: p.Times,
		Detail: map[string]string{"by": nodeSubject(from.PeerID), "reader": p.From},
	}
	switch {
	case p.Subject == "node":
		e.Subject = nodeSubject(from.PeerID)
	case strings.HasPrefix(p.Subject, "("):
		e.Subject = audit.Unknown
	}
	switch {
	case p.Reference == "":
		e.Action = "blob.pull"
	case strings.Contains(p.Reference, ":"):
		e.Object += "@" + p.Reference
	default:
		e.Object += ":" + p.Reference
	}
	if p.Registry == "" {
		e.Project, _, _ = strings.Cut(p.Repository, "/")
	} else {
		e.Object = p.Registry + "/" + e.Object
	}
	if p.Refused {
		e.Reason = "refused by the mirror of that host"
	}
	return e
}

// from is the address that a call came from.
func (u callerUser) from() string {
	if u.request == nil {
		return ""
	}
	if u.Name == operator {
		return "the data folder"
	}
	return hostOf(u.request.RemoteAddr)
}

func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}
