package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/supernode/meta"
)

// order waits for the next order that is one.
func order(t *testing.T, line *connect.ServerStreamForClient[shoalv1.Order]) *shoalv1.Order {
	t.Helper()
	for line.Receive() {
		if line.Msg().GetIdle() == nil {
			return line.Msg()
		}
	}
	t.Fatalf("the line closed: %v", line.Err())
	return nil
}

func TestPrewarmTellsOfEachHost(t *testing.T) {
	f := newFront(t)
	digest := f.push("demo/app", "v1")
	good, bad, gone := f.join(), f.join(), f.join()
	lines := map[*member]*connect.ServerStreamForClient[shoalv1.Order]{
		good: good.watch("good"), bad: bad.watch("bad"), gone: gone.watch("gone"),
	}
	stream, err := f.admin().Prewarm(t.Context(), connect.NewRequest(&shoalv1.PrewarmRequest{
		Images: []string{"demo/app:v1"}, Pool: "web", Platform: "linux/arm64", Unpack: true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	got := order(t, lines[good])
	p := got.GetPrewarm()
	if p.GetRepository() != "demo/app" || p.GetTag() != "v1" || p.GetDigest() != string(digest) || p.GetPlatform() != "linux/arm64" || !p.GetUnpack() {
		t.Errorf("the order is %+v", got)
	}
	// The token in the order opens this image at the members' listener, and
	// no other.
	for repository, want := range map[string]int{"demo/app": http.StatusOK, "demo/other": http.StatusForbidden} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "https://supernode/v2/"+repository+"/manifests/v1", nil)
		r.Header.Set("Authorization", "Bearer "+p.GetToken())
		response, err := good.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s with the order's token: %s", repository, response.Status)
		}
	}
	answer := func(m *member, id string, done bool, failure string) {
		_, err := m.Progress(t.Context(), connect.NewRequest(&shoalv1.ProgressRequest{OrderId: id, BytesDone: 5, BytesTotal: 10, Done: done, Error: failure}))
		if err != nil {
			t.Error(err)
		}
	}
	order(t, lines[gone])
	lines[gone].Close()
	failed := order(t, lines[bad])
	answer(bad, failed.Id, true, "no room")
	answer(bad, got.Id, true, "") // not its order: nobody listens
	answer(good, got.Id, false, "")
	answer(good, got.Id, true, "")
	last := map[string]*shoalv1.PrewarmUpdate{}
	// Each host stands in the answer before any of them has answered.
	for range 3 {
		if !stream.Receive() || stream.Msg().Done {
			t.Fatalf("%v, %v", stream.Msg(), stream.Err())
		}
	}
	for stream.Receive() {
		last[stream.Msg().Hostname] = stream.Msg()
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if u := last["good"]; !u.GetDone() || u.Error != "" || u.BytesTotal != 10 || u.Digest != string(digest) || u.Image != "demo/app:v1" {
		t.Errorf("good: %+v", u)
	}
	if u := last["bad"]; !u.GetDone() || u.Error != "no room" {
		t.Errorf("bad: %+v", u)
	}
	if u := last["gone"]; !u.GetDone() || u.Error == "" {
		t.Errorf("gone: %+v", u)
	}
}

func TestPrewarmSaysWhatIsWrong(t *testing.T) {
	f := newFront(t)
	f.push("demo/app", "v1")
	m := f.join()
	m.watch("host-1")
	for _, c := range []struct {
		images []string
		pool   string
		want   connect.Code
	}{
		{nil, "", connect.CodeInvalidArgument},
		{make([]string, 101), "", connect.CodeInvalidArgument},
		{[]string{"Not An Image"}, "", connect.CodeInvalidArgument},
		{[]string{"demo/app@sha256:00"}, "", connect.CodeInvalidArgument},
		{[]string{"demo/app:v2"}, "", connect.CodeNotFound},
		{[]string{"docker.io/alpine:4"}, "", connect.CodeNotFound},
		{[]string{"demo/app:v1"}, "no-such-pool", connect.CodeNotFound},
	} {
		stream, err := f.admin().Prewarm(t.Context(), connect.NewRequest(&shoalv1.PrewarmRequest{Images: c.images, Pool: c.pool}))
		if err == nil {
			for stream.Receive() {
				t.Errorf("%v was ordered", c.images)
			}
			err = stream.Err()
		}
		if code(err) != c.want {
			t.Errorf("prewarm %v in %q: %v, want %v", c.images, c.pool, err, c.want)
		}
	}
}

func TestResolve(t *testing.T) {
	f := newFront(t)
	digest := f.push("demo/app", "v1")
	own := f.Registry.PublicNames[0]
	for name, want := range map[string]string{
		"demo/app:v1":                             " demo/app " + string(digest),
		own + "/demo/app:v1":                      " demo/app " + string(digest),
		"demo/app:v1@" + someDigest:               " demo/app " + someDigest,
		"docker.io/alpine:3":                      "docker.io library/alpine " + string(f.outside.digest),
		"ghcr.io/x/y@" + string(f.outside.digest): "ghcr.io x/y " + string(f.outside.digest),
	} {
		i, err := f.resolve(t.Context(), name)
		if got := i.Registry + " " + i.Repository + " " + string(i.Digest); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestABackupCanBeOpened(t *testing.T) {
	f := newFront(t)
	f.push("demo/app", "v1")
	stream, err := f.admin().Backup(t.Context(), connect.NewRequest(&shoalv1.BackupRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	path := filepath.Join(t.TempDir(), "backup.db")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for stream.Receive() {
		if n := len(stream.Msg().Data); n > backupChunk {
			t.Errorf("a chunk of %d bytes", n)
		}
		if _, err := file.Write(stream.Msg().Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	copied, err := meta.OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	want, err := f.meta.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := copied.List(t.Context(), "", "", 0)
	if err != nil || len(got) != len(want) || len(got) == 0 {
		t.Errorf("the backup holds %d values, the store %d: %v", len(got), len(want), err)
	}
}

// A line ends when the supernode stops, so that it stops at once.
func TestLinesEndWhenTheSupernodeStops(t *testing.T) {
	f := newFront(t)
	line := f.join().watch("host-1")
	close(f.stopping)
	if line.Receive() || line.Err() != nil {
		t.Errorf("the line said %v and ended with %v, not in order", line.Msg(), line.Err())
	}
}

// post sends a body of any kind to a call.
func post(t *testing.T, client *http.Client, url, kind, encoding string, body io.Reader) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error() // the server hung up on it
	}
	defer response.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, string(raw)
}

// zeros never end; they are told by their count.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	clear(p[:n])
	z.n -= n
	return int(n), nil
}

func TestGarbageAndExcessAreRefused(t *testing.T) {
	f := newFront(t)
	m := f.join()
	as := &http.Client{Transport: with{func(r *http.Request) { r.SetBasicAuth("admin", f.password) }}}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	io.Copy(z, &zeros{64 << 20})
	z.Close()
	for url, client := range map[string]*http.Client{
		f.public.URL + "/api/shoal.v1.JoinService/Join":             http.DefaultClient,
		f.public.URL + "/api/shoal.v1.AdminService/CreateJoinToken": as,
		f.public.URL + "/api/shoal.v1.AdminService/RevokeServer":    as,
		"https://supernode/shoal.v1.NodeService/Announce":           m.http,
		"https://supernode/shoal.v1.NodeService/Report":             m.http,
		"https://supernode/shoal.v1.NodeService/Progress":           m.http,
	} {
		for name, body := range map[string]io.Reader{
			"garbage": strings.NewReader("\xff\xfe\x00nonsense\x80"), "too large": &zeros{maxMessage + 1},
		} {
			if status, said := post(t, client, url, "application/proto", "", body); status == http.StatusOK || status == http.StatusInternalServerError {
				t.Errorf("%s to %s: %d %s", name, url, status, said)
			}
		}
		if status, said := post(t, client, url, "application/json", "", strings.NewReader(strings.Repeat("[", 1<<20))); status == http.StatusOK {
			t.Errorf("deep JSON to %s: %d %s", url, status, said)
		}
		if status, said := post(t, client, url, "application/proto", "gzip", bytes.NewReader(bomb.Bytes())); status != http.StatusTooManyRequests {
			t.Errorf("a bomb to %s: %d %s", url, status, said) // 429 is Connect's resource_exhausted
		}
	}
	if status, said := post(t, http.DefaultClient, f.public.URL+"/api/shoal.v1.JoinService/Join", "application/proto", "", &zeros{maxJoin + 1}); status != http.StatusTooManyRequests {
		t.Errorf("more than %d bytes of a stranger: %d %s", maxJoin, status, said)
	}
}

func TestWrongFieldsAreRefused(t *testing.T) {
	f := newFront(t)
	m := f.join()
	long := strings.Repeat("x", maxLabel+1)
	for name, request := range map[string]*shoalv1.AnnounceRequest{
		"too many":     {Announcements: make([]*shoalv1.Announcement, maxAnnouncements+1)},
		"a long rack":  {Rack: long},
		"a long zone":  {Zone: long},
		"no digest":    {Announcements: []*shoalv1.Announcement{{Digest: "sha256:00", State: shoalv1.Announcement_WANTS}}},
		"a wrong hash": {Announcements: []*shoalv1.Announcement{{Digest: strings.Replace(someDigest, "4bc", "4BC", 1)}}},
	} {
		if _, err := m.Announce(t.Context(), connect.NewRequest(request)); code(err) != connect.CodeInvalidArgument {
			t.Errorf("announce %s: %v", name, err)
		}
	}
	// What is merely senseless changes nothing and harms nobody.
	for _, a := range []*shoalv1.Announcement{
		{Digest: someDigest, State: 99, Size: -7, PiecesHeld: -1}, {Digest: someDigest, State: shoalv1.Announcement_COMPLETE, Size: 1 << 62, PiecesHeld: 1 << 30},
		{Digest: someDigest, State: shoalv1.Announcement_GONE, Size: 3},
	} {
		if _, err := m.Announce(t.Context(), connect.NewRequest(&shoalv1.AnnounceRequest{SwarmAddr: "nonsense", Announcements: []*shoalv1.Announcement{a}})); code(err) == connect.CodeInternal {
			t.Errorf("announce %+v: %v", a, err)
		}
	}
	if _, err := m.Report(t.Context(), connect.NewRequest(&shoalv1.ReportRequest{Digest: "x"})); code(err) != connect.CodeInvalidArgument {
		t.Errorf("report: %v", err)
	}
	for name, hello := range map[string]*shoalv1.WatchRequest{
		"hostname": {Hostname: long}, "version": {Version: long}, "addresses": {P2PAddrs: make([]string, 17)},
		"address": {P2PAddrs: []string{strings.Repeat("x", 4096)}},
	} {
		line, err := m.Watch(t.Context(), connect.NewRequest(hello))
		if err == nil {
			line.Receive()
			err = line.Err()
		}
		if code(err) != connect.CodeInvalidArgument {
			t.Errorf("watch with a wrong %s: %v", name, err)
		}
	}
	for _, r := range []*shoalv1.CreateJoinTokenRequest{{}, {TtlSeconds: -1, Uses: 1}, {TtlSeconds: 1 << 62, Uses: 1}, {TtlSeconds: 60, Uses: 1 << 30}, {TtlSeconds: 60, Uses: 1, Pool: "A b"}} {
		if answer, err := f.admin().CreateJoinToken(t.Context(), connect.NewRequest(r)); code(err) != connect.CodeInvalidArgument {
			t.Errorf("join token %+v: %v, %v", r, answer, err)
		}
	}
}

func TestAddressesAreCompletedByWhereTheyCallFrom(t *testing.T) {
	for _, c := range []struct{ listen, from, want string }{
		{":65002", "10.0.0.7", "10.0.0.7:65002"},
		{"0.0.0.0:65002", "10.0.0.7", "10.0.0.7:65002"},
		{"[::]:65002", "fd00::7", "[fd00::7]:65002"},
		{"192.0.2.1:65002", "10.0.0.7", "192.0.2.1:65002"},
		{"host-1:65002", "10.0.0.7", "host-1:65002"},
		{":0", "10.0.0.7", ""}, {"", "10.0.0.7", ""}, {":http", "10.0.0.7", ""}, {":70000", "10.0.0.7", ""}, {"nonsense", "10.0.0.7", ""}, {":-1", "10.0.0.7", ""},
	} {
		if got := (caller{host: c.from}).addrOf(c.listen); got != c.want {
			t.Errorf("%q from %s is %q, want %q", c.listen, c.from, got, c.want)
		}
	}
}

// Whoever answers over JSON instead of Protobuf is the same API.
func TestTheAPISpeaksPlainJSON(t *testing.T) {
	f := newFront(t)
	as := &http.Client{Transport: with{func(r *http.Request) { r.SetBasicAuth("admin", f.password) }}}
	status, said := post(t, as, f.public.URL+"/api/shoal.v1.AdminService/CreateJoinToken", "application/json", "", strings.NewReader(`{"ttlSeconds":60,"uses":1}`))
	var answer struct{ Token string }
	if err := json.Unmarshal([]byte(said), &answer); err != nil || status != http.StatusOK || !strings.HasPrefix(answer.Token, "shoal-join.") {
		t.Errorf("%d %s: %v", status, said, err)
	}
}
