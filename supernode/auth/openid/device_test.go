package openid

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/shoalproject/shoal/supernode/auth/openid/openidtest"
)

func TestDeviceLogin(t *testing.T) {
	b := newBench(t, nil)
	d, err := b.StartDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Device{Code: "the device code", UserCode: "WDJB-MJHT", URL: b.forger.URL + "/activate", CompleteURL: b.forger.URL + "/activate?user_code=WDJB-MJHT", Expires: noon.Add(10 * time.Minute), Interval: 7 * time.Second}
	if d != want {
		t.Fatalf("%+v, want %+v", d, want)
	}
	for refuse, want := range map[string]error{"authorization_pending": ErrPending, "slow_down": ErrSlowDown, "access_denied": ErrRefused, "expired_token": ErrRefused} {
		b.forger.Set(func(f *openidtest.Forger) { f.Refuse = refuse })
		if _, err := b.FinishDevice(t.Context(), d.Code); !errors.Is(err, want) {
			t.Errorf("%s: %v", refuse, err)
		}
	}
	b.forger.Set(func(f *openidtest.Forger) { f.Refuse = "" })
	person, err := b.FinishDevice(t.Context(), d.Code)
	if err != nil || person.Subject != "s1" || person.Name != "ann" {
		t.Fatalf("%+v %v", person, err)
	}
	requests := b.forger.Requests()
	for _, seen := range requests {
		if (seen.Path == "/device" || seen.Path == "/token") && (seen.User != "shoal" || seen.Password != url.QueryEscape(clientSecret)) {
			t.Errorf("the client is not named: %+v", seen)
		}
		if seen.Path == "/token" && (seen.Form.Get("grant_type") != deviceGrant || seen.Form.Get("device_code") != d.Code) {
			t.Errorf("%+v", seen)
		}
	}
	// What proves nothing is no login here either.
	for name, claims := range map[string]map[string]any{"issuer": {"iss": "https://evil.example"}, "audience": {"aud": "other"}, "end": {"exp": 1}} {
		b.forger.Set(func(f *openidtest.Forger) { f.Claims = claims })
		if _, err := b.FinishDevice(t.Context(), d.Code); !errors.Is(err, ErrUntrue) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the terminal prints is looked at before.
func TestDeviceAnswersAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		say  map[string]any
		want error
	}{
		"no code":                    {map[string]any{"device_code": nil}, ErrUnavailable},
		"no code for people":         {map[string]any{"user_code": ""}, ErrUnavailable},
		"a code that paints":         {map[string]any{"user_code": "\x1b[31mred"}, ErrUnavailable},
		"a code too long":            {map[string]any{"user_code": strings.Repeat("A", 65)}, ErrUnavailable},
		"no address":                 {map[string]any{"verification_uri": nil}, ErrUnavailable},
		"an address of another kind": {map[string]any{"verification_uri": "javascript:alert(1)"}, ErrUnavailable},
		"an address in the clear":    {map[string]any{"verification_uri_complete": "http://login.example.com/"}, ErrUnavailable},
		"no complete address":        {map[string]any{"verification_uri_complete": nil}, nil},
		"for ever":                   {map[string]any{"expires_in": 1 << 40}, nil},
		"no pause":                   {map[string]any{"interval": nil}, nil},
	} {
		b := newBench(t, nil)
		b.forger.Set(func(f *openidtest.Forger) { f.Device = c.say })
		d, err := b.StartDevice(t.Context())
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %+v %v", name, d, err)
		}
		if err == nil && (d.Expires.After(noon.Add(longestLogin)) || d.Interval < usualInterval) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	b := newBench(t, nil)
	b.forger.Set(func(f *openidtest.Forger) { f.Metadata["device_authorization_endpoint"] = nil })
	if _, err := b.StartDevice(t.Context()); !errors.Is(err, ErrNoDevice) {
		t.Errorf("no device grant: %v", err)
	}
	b = newBench(t, nil)
	b.forger.Set(func(f *openidtest.Forger) {
		f.Handle["/device"] = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", 500) }
	})
	if _, err := b.StartDevice(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a fault: %v", err)
	}
}
