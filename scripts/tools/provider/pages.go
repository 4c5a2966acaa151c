package main

import (
	"context"
	"html/template"
	"net/http"
)

var (
	loginForm = template.Must(template.New("login").Parse(`<!doctype html><title>Log in</title>
<form method="post" action="/login/username"><input type="hidden" name="id" value="{{.ID}}">
<input name="username"><input name="password" type="password"><button>Log in</button></form><p>{{.Error}}</p>`))

	deviceForm = template.Must(template.New("device").Parse(`<!doctype html><title>Confirm a login</title>
<form method="post" action="/device"><input name="user_code" value="{{.ID}}">
<input name="username"><input name="password" type="password">
<button name="action" value="allow">Allow</button><button name="action" value="deny">Deny</button></form><p>{{.Error}}</p>`))
)

// pages are what a person sees.
type pages struct {
	store    *store
	callback func(context.Context, string) string
}

type shown struct{ ID, Error string }

func show(w http.ResponseWriter, status int, form *template.Template, s shown) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	form.Execute(w, s) //nolint:errcheck // a browser that left misses nothing
}

func (p *pages) loginPage(w http.ResponseWriter, r *http.Request) {
	show(w, http.StatusOK, loginForm, shown{ID: r.URL.Query().Get("authRequestID")})
}

func (p *pages) login(w http.ResponseWriter, r *http.Request) {
	id := r.PostFormValue("id")
	if err := p.store.CheckUsernamePassword(r.PostFormValue("username"), r.PostFormValue("password"), id); err != nil {
		show(w, http.StatusUnauthorized, loginForm, shown{ID: id, Error: err.Error()})
		return
	}
	http.Redirect(w, r, p.callback(r.Context(), id), http.StatusFound)
}

func (p *pages) devicePage(w http.ResponseWriter, r *http.Request) {
	show(w, http.StatusOK, deviceForm, shown{ID: r.URL.Query().Get("user_code")})
}

func (p *pages) device(w http.ResponseWriter, r *http.Request) {
	code := r.PostFormValue("user_code")
	err := p.store.confirm(r.Context(), code, r.PostFormValue("username"), r.PostFormValue("password"), r.PostFormValue("action"))
	if err != nil {
		show(w, http.StatusUnauthorized, deviceForm, shown{ID: code, Error: err.Error()})
		return
	}
	w.Write([]byte("You can go back to your terminal.")) //nolint:errcheck // a browser that left misses nothing
}
