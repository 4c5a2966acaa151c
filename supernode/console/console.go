// Package console is what a person sees of the supernode in a browser: a
// login, the images it holds, the swarm that carries them, the services that
// were placed and the fleet that runs them. The pages are
// plain HTML made on the server; a strict content security policy allows one
// style sheet and nothing else.
package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

// maxForm bounds a form that is sent, in bytes.
const maxForm = 16 << 10

// Session is one person's login in one browser.
type Session struct {
	User       string
	CSRF       string // has to come back with each form
	MustChange bool   // the password is a one-time one
}

// ErrRefused is what Login returns for a wrong user or password, with what to
// tell the person.
var ErrRefused = errors.New("login refused")

// Doors is what the console needs of the auth gateway.
type Doors interface {
	// Login checks a password and sets the session's cookie.
	Login(w http.ResponseWriter, r *http.Request, user, password string) error
	// OpenID reports whether people may log in at a provider.
	OpenID() bool
	// BeginOpenID sends the browser to the provider, from where it comes back to
	// FinishOpenID, which sets the session's cookie.
	BeginOpenID(w http.ResponseWriter, r *http.Request) error
	FinishOpenID(w http.ResponseWriter, r *http.Request) error
	// Session is the session a request belongs to, if any.
	Session(r *http.Request) (Session, bool)
	// CheckForm verifies the session and its CSRF token.
	CheckForm(r *http.Request, csrf string) error
	Logout(w http.ResponseWriter, r *http.Request)
	ChangePassword(r *http.Request, old, new string) error
}

// Image is one tagged image.
type Image struct {
	Repository, Tag, Digest, MediaType string
	Size                               int64 // bytes of all it names; of an index, of its manifest
	Pushed                             time.Time
}

// Swarm is one blob and who has how much of it.
type Swarm struct {
	Digest string
	Size   int64
	Peers  []Peer
}

// Peer is a member of a swarm.
type Peer struct {
	Host         string
	Seed         bool
	Held, Pieces int
}

// Pool is a pool of the fleet with its servers.
type Pool struct {
	Name, Cluster, Tier, Class string
	Ready                      int
	Servers                    []Server
}

// Server is one of the fleet.
type Server struct {
	Name, Phase, Reason string
	Away                bool   // it has joined and is not connected
	Engine              string // what runs containers there
	CPU                 int64  // thousandths of a core
	Memory              int64  // bytes
	Version, PeerID     string
	Seen                time.Time
}

// Service is what was placed on a pool.
type Service struct {
	Name, Pool, Image, Phase, Reason string
	Healthy, Replicas                int
	Containers                       []Container
}

// Container is one copy of a service.
type Container struct {
	Server, State, Error string
	Restarts             int
	// Ready is when the host had the image, zero where it is not known any
	// more, and Started when the container began to run.
	Ready, Started time.Time
}

// Config wires the console.
type Config struct {
	Doors    Doors
	Images   func(ctx context.Context) ([]Image, error)
	Swarms   func(ctx context.Context) ([]Swarm, error)
	Fleet    func(ctx context.Context) ([]Pool, error)
	Services func(ctx context.Context) ([]Service, error)
	Name     string // of the data centre
	Log      *slog.Logger
}

// Console serves the pages.
type Console struct {
	config Config
	pages  map[string]*template.Template
}

// New reads the templates; they are part of the program, so an error is one
// of the build.
func New(config Config) (*Console, error) {
	c := &Console{config: config, pages: map[string]*template.Template{}}
	for _, page := range []string{"login", "welcome", "images", "swarm", "services", "fleet", "password"} {
		t, err := template.New("frame.html").Funcs(template.FuncMap{
			"bytes": formatBytes, "short": short, "when": when, "clock": clock, "percent": percent, "cores": cores,
		}).ParseFS(assets, "assets/frame.html", "assets/"+page+".html")
		if err != nil {
			return nil, fmt.Errorf("read the page %s: %w", page, err)
		}
		c.pages[page] = t
	}
	return c, nil
}

// Open lists the routes that need no session; everything else does.
func (c *Console) Open() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"GET /login":     c.loginPage,
		"POST /login":    c.login,
		"GET /style.css": c.style,

		"GET /login/oidc":          c.beginOpenID,
		"GET /login/oidc/callback": c.finishOpenID,
	}
}

// Closed lists the routes for those who are logged in.
func (c *Console) Closed() map[string]http.HandlerFunc {
	closed := map[string]http.HandlerFunc{
		"GET /{$}":       func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/images", http.StatusFound) },
		"GET /images":    c.images,
		"GET /swarm":     c.swarm,
		"GET /services":  c.services,
		"GET /fleet":     c.fleet,
		"GET /password":  c.passwordPage,
		"POST /password": c.password,
		"POST /logout":   c.logout,
	}
	for route, handler := range closed {
		closed[route] = c.loggedIn(handler)
	}
	return closed
}

type sessionKey struct{}

func (c *Console) loggedIn(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		session, ok := c.config.Doors.Session(r)
		if !ok {
			http.Redirect(w, r, "/login", http.StatusFound)
			return
		}
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := c.config.Doors.CheckForm(r, r.PostFormValue("csrf")); err != nil {
				http.Error(w, "This form is too old; go back, load the page again and send it once more.", http.StatusForbidden)
				return
			}
		}
		next(w, r.WithContext(context.WithValue(r.Context(), sessionKey{}, session)))
	}
}

// page is what every template gets.
type page struct {
	Title, Name, Here string
	Session           Session
	Error             string
	Data              any
}

func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, name string, p page) {
	p.Name, p.Here = c.config.Name, name
	p.Session, _ = r.Context().Value(sessionKey{}).(Session)
	var out bytes.Buffer
	if err := c.pages[name].Execute(&out, p); err != nil {
		c.config.Log.Error("a page was not made", "page", name, "error", err)
		http.Error(w, "the page could not be made; the supernode's log says why", http.StatusInternalServerError)
		return
	}
	secure(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(out.Bytes()) //nolint:errcheck // a browser that left misses nothing
}

// secure sets the headers that keep other sites and injected markup out.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

func (c *Console) style(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeFileFS(w, r, assets, "assets/style.css")
}

func (c *Console) loginPage(w http.ResponseWriter, r *http.Request) {
	if _, ok := c.config.Doors.Session(r); ok {
		http.Redirect(w, r, "/images", http.StatusFound)
		return
	}
	c.showLogin(w, r, http.StatusOK, "")
}

// showLogin makes the login page; its data says whether there is a provider.
func (c *Console) showLogin(w http.ResponseWriter, r *http.Request, status int, problem string) {
	c.render(w, r, status, "login", page{Title: "Log in", Error: problem, Data: c.config.Doors.OpenID()})
}

func (c *Console) beginOpenID(w http.ResponseWriter, r *http.Request) {
	// The answer is for this browser alone.
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	if err := c.config.Doors.BeginOpenID(w, r); err != nil {
		c.loginFailed(w, r, err)
	}
}

// finishOpenID answers with a page that goes on by itself, and not with a
// redirect: the browser came by another site's link, and on the rest of that
// way it would not send the session's cookie, which is SameSite=Strict.
func (c *Console) finishOpenID(w http.ResponseWriter, r *http.Request) {
	if err := c.config.Doors.FinishOpenID(w, r); err != nil {
		c.loginFailed(w, r, err)
		return
	}
	c.render(w, r, http.StatusOK, "welcome", page{Title: "Logged in"})
}

func (c *Console) loginFailed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrRefused) {
		c.showLogin(w, r, http.StatusUnauthorized, err.Error())
		return
	}
	c.failed(w, "log in", err)
}

func (c *Console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := c.config.Doors.Login(w, r, r.PostFormValue("user"), r.PostFormValue("password"))
	if err != nil {
		c.loginFailed(w, r, err)
		return
	}
	http.Redirect(w, r, "/images", http.StatusSeeOther)
}

func (c *Console) logout(w http.ResponseWriter, r *http.Request) {
	c.config.Doors.Logout(w, r)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (c *Console) passwordPage(w http.ResponseWriter, r *http.Request) {
	c.render(w, r, http.StatusOK, "password", page{Title: "Change the password"})
}

func (c *Console) password(w http.ResponseWriter, r *http.Request) {
	p := page{Title: "Change the password"}
	if r.PostFormValue("new") != r.PostFormValue("again") {
		p.Error = "The two new passwords differ."
	} else if err := c.config.Doors.ChangePassword(r, r.PostFormValue("old"), r.PostFormValue("new")); err != nil {
		p.Error = err.Error()
	}
	if p.Error != "" {
		c.render(w, r, http.StatusBadRequest, "password", p)
		return
	}
	http.Redirect(w, r, "/images", http.StatusSeeOther)
}

func (c *Console) images(w http.ResponseWriter, r *http.Request) {
	images, err := c.config.Images(r.Context())
	if err != nil {
		c.failed(w, "list the images", err)
		return
	}
	c.render(w, r, http.StatusOK, "images", page{Title: "Images", Data: images})
}

func (c *Console) swarm(w http.ResponseWriter, r *http.Request) {
	swarms, err := c.config.Swarms(r.Context())
	if err != nil {
		c.failed(w, "list the swarms", err)
		return
	}
	c.render(w, r, http.StatusOK, "swarm", page{Title: "Swarm", Data: swarms})
}

func (c *Console) services(w http.ResponseWriter, r *http.Request) {
	services, err := c.config.Services(r.Context())
	if err != nil {
		c.failed(w, "list the services", err)
		return
	}
	c.render(w, r, http.StatusOK, "services", page{Title: "Services", Data: services})
}

func (c *Console) fleet(w http.ResponseWriter, r *http.Request) {
	pools, err := c.config.Fleet(r.Context())
	if err != nil {
		c.failed(w, "list the fleet", err)
		return
	}
	c.render(w, r, http.StatusOK, "fleet", page{Title: "Fleet", Data: pools})
}

func (c *Console) failed(w http.ResponseWriter, what string, err error) {
	c.config.Log.Error("the console could not "+what, "error", err)
	http.Error(w, "could not "+what+"; the supernode's log says why", http.StatusInternalServerError)
}

func formatBytes(n int64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < 4 {
		v /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, []string{"B", "kB", "MB", "GB", "TB"}[unit])
}

// short is a digest as people compare it.
func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}

func when(t time.Time) string {
	if t.IsZero() {
		return "—"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// clock is when, for what happened within a moment.
func clock(t time.Time) string {
	if t.IsZero() {
		return "—"
	}
	return t.UTC().Format("15:04:05.000")
}

// cores are thousandths of a core as people count them.
func cores(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'g', 4, 64) }

func percent(part, whole int) int {
	if whole == 0 {
		return 100
	}
	return part * 100 / whole
}
