package dfget

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/shoalproject/shoal/pkg/settings"
)

func (a *app) loginCommand() *cobra.Command {
	var user string
	var fromStdin, oidc bool
	cmd := &cobra.Command{
		Use:   "login [-u USER] [--password-stdin] URL | --oidc URL",
		Short: "Log in to a supernode",
		Long: `Log in to a supernode. The credentials go where Docker keeps its own
(~/.docker/config.json or its credential helper), so docker and skopeo find
them too.

With --oidc, log in at the provider that the supernode was given: dfget prints
an address and a code, to be opened and entered in a browser anywhere. What is
kept then is a refresh token, good for 90 days, which 'dfget session revoke'
ends.`,
		Example: `  dfget login -u admin https://registry.example.com:8001
  cat password | dfget login -u ci --password-stdin http://127.0.0.1:8001
  dfget login --oidc https://registry.example.com:8001`,
		Args: settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if oidc && (user != "" || fromStdin) {
				return fmt.Errorf("%w: --oidc takes no user or password; the login provider asks for them", settings.ErrUsage)
			}
			if oidc {
				return a.deviceLogin(cmd.Context(), args[0])
			}
			return a.login(cmd.Context(), args[0], user, fromStdin)
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "user name (asked for when empty)")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&oidc, "oidc", false, "log in with a browser, at the supernode's login provider")
	return cmd
}

func (a *app) login(ctx context.Context, raw, user string, fromStdin bool) error {
	u, err := parseSupernode(raw)
	if err != nil {
		return err
	}
	creds, err := a.askCredentials(user, fromStdin)
	if err != nil {
		return err
	}
	if err := a.tryLogin(ctx, u.String(), creds); err != nil {
		return err
	}
	return a.keepLogin(u, creds)
}

// keepLogin stores a login for later commands, and which supernode it is for.
func (a *app) keepLogin(u *url.URL, creds credentials) error {
	err := storeCredentials(u.Host, creds)
	if err != nil {
		return fmt.Errorf("store the credentials: %w", err)
	}
	kept := remembered{Supernode: u.String()}
	if a.caFile != "" {
		if kept.CAFile, err = filepath.Abs(a.caFile); err != nil {
			return err
		}
	}
	if err := kept.save(); err != nil {
		return fmt.Errorf("remember the supernode: %w", err)
	}
	a.say("Logged in to %s as %s.", u.Host, creds.user)
	return nil
}

// storeCredentials keeps a login where Docker keeps its own.
func storeCredentials(host string, c credentials) error {
	file, err := dockerconfig.Load("")
	if err != nil {
		return fmt.Errorf("read Docker's configuration: %w", err)
	}
	return file.GetCredentialsStore(host).Store(types.AuthConfig{ServerAddress: host, Username: c.user, Password: c.password, IdentityToken: c.identity})
}

// tryLogin asks for a token without any scope, which succeeds for whoever the
// supernode knows.
func (a *app) tryLogin(ctx context.Context, base string, creds credentials) error {
	client, err := a.supernodeHTTP()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/token", nil)
	if err != nil {
		return err
	}
	request.SetBasicAuth(creds.user, creds.password)
	response, err := client.Do(request)
	if err != nil {
		return unreached(base, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("%w: %s does not know this user and password", errDenied, base)
	}
	if response.StatusCode != http.StatusOK {
		return statusError("log in", response)
	}
	return nil
}

// unreached says what to do about a supernode that cannot be spoken to.
func unreached(base string, err error) error {
	var stranger x509.UnknownAuthorityError
	if errors.As(err, &stranger) {
		return fmt.Errorf("reach the supernode: %w; give its authority with --ca FILE (DATA/ca.pem on the supernode)", err)
	}
	return fmt.Errorf("reach the supernode: %w; is 'supernode serve' running, and is %s its address?", err, base)
}

func (a *app) askCredentials(user string, fromStdin bool) (credentials, error) {
	input := bufio.NewReader(a.in)
	if fromStdin {
		if user == "" {
			return credentials{}, fmt.Errorf("%w: --password-stdin needs --username too", settings.ErrUsage)
		}
		password, err := io.ReadAll(io.LimitReader(input, 4096))
		if err != nil {
			return credentials{}, fmt.Errorf("read the password: %w", err)
		}
		return credentials{user: user, password: strings.TrimRight(string(password), "\r\n")}, nil
	}
	file, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return credentials{}, fmt.Errorf("%w: there is no terminal to ask on; use --username with --password-stdin", settings.ErrUsage)
	}
	if user == "" {
		fmt.Fprint(a.errOut, "Username: ")
		line, err := input.ReadString('\n')
		if err != nil {
			return credentials{}, fmt.Errorf("read the user name: %w", err)
		}
		user = strings.TrimSpace(line)
	}
	fmt.Fprint(a.errOut, "Password: ")
	password, err := term.ReadPassword(int(file.Fd()))
	fmt.Fprintln(a.errOut)
	if err != nil {
		return credentials{}, fmt.Errorf("read the password: %w", err)
	}
	return credentials{user: user, password: string(password)}, nil
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "logout [URL]",
		Short:   "Forget the credentials for a supernode",
		Example: "  dfget logout https://registry.example.com:8001",
		Args:    settings.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				a.supernode = args[0]
			}
			u, err := a.supernodeURL()
			if err != nil {
				return err
			}
			// A refresh token would go on being good: end it first.
			if err := a.endOwnSession(cmd.Context(), u); err != nil {
				return err
			}
			file, err := dockerconfig.Load("")
			if err != nil {
				return fmt.Errorf("read Docker's configuration: %w", err)
			}
			if err := file.GetCredentialsStore(u.Host).Erase(u.Host); err != nil {
				return fmt.Errorf("erase the credentials: %w", err)
			}
			a.say("Forgot the credentials for %s.", u.Host)
			return nil
		},
	}
}
