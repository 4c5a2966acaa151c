package dfget

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"time"

	"connectrpc.com/connect"

	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// shortestPause is between two questions, whatever the supernode says.
const shortestPause = time.Second

// deviceLogin logs in by a browser somewhere else. The supernode speaks to the
// provider; what is kept here is the supernode's own refresh token.
func (a *app) deviceLogin(ctx context.Context, raw string) error {
	u, err := parseSupernode(raw)
	if err != nil {
		return err
	}
	client, err := a.supernodeHTTP()
	if err != nil {
		return err
	}
	logins := shoalv1connect.NewLoginServiceClient(client, u.String()+"/api")
	started, err := logins.StartLogin(ctx, connect.NewRequest(&shoalv1.StartLoginRequest{}))
	if connect.CodeOf(err) == connect.CodeUnavailable {
		return unreached(u.String(), fmt.Errorf("begin the login: %w", err))
	}
	if err != nil {
		return fmt.Errorf("begin the login: %w", err)
	}
	login := started.Msg
	if err := a.showCode(login); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(login.ExpiresInSeconds)*time.Second)
	defer cancel()
	host, err := os.Hostname() // by which people know the session in a list
	if err != nil {
		host = "a host without a name"
	}
	pause := time.NewTicker(max(time.Duration(login.IntervalSeconds)*time.Second, shortestPause))
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: nobody confirmed the login in time (%w); begin it again", errDenied, ctx.Err())
		}
		question := connect.NewRequest(&shoalv1.FinishLoginRequest{Handle: login.Handle})
		question.Header().Set("User-Agent", "dfget on "+host)
		answer, err := logins.FinishLogin(ctx, question)
		switch {
		case connect.CodeOf(err) == connect.CodeUnavailable: // it may come back in time
			a.say("The supernode cannot say now whether the login is confirmed; trying on.")
		case err != nil:
			return fmt.Errorf("finish the login: %w", err)
		case !answer.Msg.Pending:
			return a.keepLogin(u, credentials{user: answer.Msg.User, identity: answer.Msg.RefreshToken})
		}
	}
}

// showCode tells where to confirm the login. Nothing goes on without it, so it
// is printed with -q too; scripts get JSON.
func (a *app) showCode(login *shoalv1.StartLoginResponse) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]string{
			"verification_url": login.VerificationUrl, "user_code": login.UserCode, "complete_url": login.CompleteUrl,
		})
	}
	_, err := fmt.Fprintf(a.errOut, "Open %s in a browser and enter the code %s\n", login.VerificationUrl, login.UserCode)
	if err == nil && login.CompleteUrl != "" {
		_, err = fmt.Fprintf(a.errOut, "(or open %s)\n", login.CompleteUrl)
	}
	return err
}

// endOwnSession ends the session whose refresh token is stored, where it is
// one. A supernode that is gone or knows it no more is no reason to keep it.
func (a *app) endOwnSession(ctx context.Context, u *url.URL) error {
	creds, err := credentialsFor(u.Host)
	if err != nil || creds.identity == "" {
		return err
	}
	a.supernode = u.String()
	client, err := a.sessions()
	if err != nil {
		return err
	}
	if _, err := client.RevokeSession(ctx, connect.NewRequest(&shoalv1.RevokeSessionRequest{})); err != nil {
		a.say("The login was not ended at the supernode (%v); it ends by itself, or by 'dfget session revoke'.", err)
	}
	return nil
}
