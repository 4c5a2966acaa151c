package dfget

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

func TestLogsOfSeveralDoNotRunIntoEachOther(t *testing.T) {
	var out strings.Builder
	p := linePrefixer{out: &out, rest: map[string]string{}}
	for _, piece := range [][2]string{{"a", "one\ntw"}, {"b", "three\n"}, {"a", "o\nfour"}, {"b", strings.Repeat("x", maxHeld)}} {
		p.write(piece[0], []byte(piece[1]))
	}
	p.end()
	want := "a | one\nb | three\na | two\nb | " + strings.Repeat("x", maxHeld) + "\na | four\n"
	if out.String() != want {
		t.Errorf("%.200q, want %.200q", out.String(), want)
	}
}

func TestLogsInJSONAreAnObjectForEachLine(t *testing.T) {
	var out strings.Builder
	p := linePrefixer{out: &out, rest: map[string]string{}, plain: true, json: true}
	p.write("a", []byte("say \"x\"\nhal"))
	p.write("a", []byte("f"))
	p.end()
	if want := `{"container":"a","line":"say \"x\""}` + "\n" + `{"container":"a","line":"half"}` + "\n"; out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
}

func TestDeadlinesAreWholeSeconds(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for line, refused := range map[string]bool{
		"place demo/app --pool a --deadline 1ms": true, "place update app --deadline 1500ms": true, "place update app --deadline -1ms": true,
		"place demo/app --pool a --deadline 90s": false, "place update app --deadline 1h": false,
	} {
		var errOut strings.Builder
		status := Run(t.Context(), strings.Fields(line), strings.NewReader(""), io.Discard, &errOut)
		if said := strings.Contains(errOut.String(), "whole seconds"); status != exitUsage || said != refused {
			t.Errorf("dfget %s: exit status %d, it said %q", line, status, errOut.String())
		}
	}
}

func TestErrorsStandBelowTheTables(t *testing.T) {
	long := "list containers: " + strings.Repeat("x", 300) + "\x1b[2J"
	var out strings.Builder
	err := (&app{out: &out}).printPlacement(&shoalv1.Placement{
		Name:       "app",
		Containers: []*shoalv1.PlacedContainer{{Id: "app-1", Server: "one", Status: &shoalv1.ContainerStatus{State: shoalv1.ContainerStatus_RUNNING, Error: long}}},
		Prepulls:   []*shoalv1.HostPrepull{{Server: "two", State: "failed", Error: long}},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	at := slices.Index(lines, "ERRORS")
	if at < 0 || len(lines) != at+3 || !strings.HasPrefix(lines[at+1], "app-1: list") || !strings.HasPrefix(lines[at+2], "two: list") {
		t.Fatalf("%s", out.String())
	}
	for _, line := range lines[:at] {
		if len(line) > 120 {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("what a host wrote moves the cursor")
	}
}

func TestMemoryReadsAsItWasAskedFor(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 8 << 20: "8 MiB", 256 << 20: "256 MiB", 1536 << 20: "1.5 GiB", 1 << 50: "1024 TiB", 25276510208: "23.5 GiB"} {
		if got := formatMemory(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// tellsOf is a supernode that sends one word of a change.
type tellsOf struct {
	shoalv1connect.UnimplementedPlacementServiceHandler
	update *shoalv1.PlaceUpdate
	err    error
}

func (s tellsOf) ScalePlacement(_ context.Context, _ *connect.Request[shoalv1.ScalePlacementRequest], stream *connect.ServerStream[shoalv1.PlaceUpdate]) error {
	return errors.Join(stream.Send(s.update), s.err)
}

func TestHowAChangeIsSaidToEnd(t *testing.T) {
	of := func(phase string, done bool) *shoalv1.PlaceUpdate {
		return &shoalv1.PlaceUpdate{Phase: phase, Done: done, Placement: &shoalv1.Placement{Name: "app", Phase: phase, Replicas: 2, Healthy: 1}}
	}
	for _, c := range []struct {
		name string
		from tellsOf
		err  string
		said string
	}{
		{"done", tellsOf{update: of("running", true)}, "", "app runs: 1 of 2 containers are healthy."},
		{"stopped", tellsOf{update: of("stopped", true)}, "", "app is stopped, with 2 containers; 'dfget place start app' runs them."},
		{"no end", tellsOf{update: of("updating", false)}, "the change goes on: see 'dfget place show app'", ""},
		{"broken off", tellsOf{update: of("updating", false), err: connect.NewError(connect.CodeUnavailable, errors.New("gone"))}, "gone; the change goes on without this command: see 'dfget place show app'", ""},
	} {
		_, handler := shoalv1connect.NewPlacementServiceHandler(c.from)
		server := httptest.NewServer(handler)
		var errOut strings.Builder
		client := shoalv1connect.NewPlacementServiceClient(server.Client(), server.URL)
		stream, err := client.ScalePlacement(t.Context(), connect.NewRequest(&shoalv1.ScalePlacementRequest{}))
		err = (&app{errOut: &errOut}).followPlacement("scale", stream, err, false)
		server.Close()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if !strings.Contains(errOut.String(), c.said) {
			t.Errorf("%s: it said %q, want %q", c.name, errOut.String(), c.said)
		}
	}
}

type removesOf struct {
	shoalv1connect.UnimplementedPlacementServiceHandler
	waits bool
}

func (s removesOf) RemovePlacement(context.Context, *connect.Request[shoalv1.RemovePlacementRequest]) (*connect.Response[shoalv1.RemovePlacementResponse], error) {
	return connect.NewResponse(&shoalv1.RemovePlacementResponse{Waits: s.waits}), nil
}

// What a host that is away still runs is not called removed.
func TestARemovalThatWaitsIsCalledSo(t *testing.T) {
	for waits, says := range map[bool]string{false: "Removed app.", true: "app is being removed"} {
		run := loggedInTo(t, func() (string, http.Handler) {
			return shoalv1connect.NewPlacementServiceHandler(removesOf{waits: waits})
		})
		if status, _, said := run("place remove app"); status != exitDone || !strings.Contains(said, says) {
			t.Errorf("waits %v: status %d, %s", waits, status, said)
		}
	}
}
