package dfget

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/shoalproject/shoal/pkg/settings"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// maxPasswordBytes bounds what is read as a password.
const maxPasswordBytes = 4096

func (a *app) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "user",
		Short:   "People who may log in, and passwords",
		Example: "  dfget user create ann\n  dfget user list\n  dfget user password",
		Args:    settings.Args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.userCreateCommand(), a.userListCommand(), a.userRemoveCommand(), a.userPasswordCommand())
	return cmd
}

func (a *app) userCreateCommand() *cobra.Command {
	var admin, fromStdin bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a user (system administrators)",
		Long: `Make a user. Without --password-stdin a password is drawn and printed, once.
The user has no right anywhere until they are a member of a project.`,
		Example: "  dfget user create ann\n  dfget user create root2 --admin --password-stdin < password",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, drawn, err := a.givenOrDrawn(fromStdin)
			if err != nil {
				return err
			}
			client, err := a.users()
			if err != nil {
				return err
			}
			_, err = client.CreateUser(cmd.Context(), connect.NewRequest(&shoalv1.CreateUserRequest{Name: args[0], Password: password, Admin: admin}))
			if err != nil {
				return fmt.Errorf("make the user: %w", err)
			}
			return a.tellPassword(args[0], password, drawn, "Made the user %s.")
		},
	}
	cmd.Flags().BoolVar(&admin, "admin", false, "make a system administrator, who may do everything")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func (a *app) userListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users (system administrators)",
		Example: "  dfget user list --json",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.users()
			if err != nil {
				return err
			}
			answer, err := client.ListUsers(cmd.Context(), connect.NewRequest(&shoalv1.ListUsersRequest{}))
			if err != nil {
				return fmt.Errorf("list the users: %w", err)
			}
			if a.json {
				return a.printJSON(answer.Msg)
			}
			w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tADMINISTRATOR\tMUST CHANGE PASSWORD\tLOGIN\tSINCE")
			for _, u := range answer.Msg.Users {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.Name, yesNo(u.Admin), yesNo(u.MustChangePassword), u.Login, u.Created.AsTime().Local().Format(time.DateTime))
			}
			return w.Flush()
		},
	}
}

func (a *app) userRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a user, at once, with all roles (system administrators)",
		Example: "  dfget user remove ann",
		Args:    settings.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.users()
			if err != nil {
				return err
			}
			answer, err := client.RemoveUser(cmd.Context(), connect.NewRequest(&shoalv1.RemoveUserRequest{Name: args[0]}))
			if err != nil {
				return fmt.Errorf("remove the user: %w", err)
			}
			return a.tell(answer.Msg, "Removed the user %s.", args[0])
		},
	}
}

func (a *app) userPasswordCommand() *cobra.Command {
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "password [NAME]",
		Short: "Change your own password, or give somebody a new one",
		Long: `Without NAME, change your own password and keep the new one where the login
was kept. With NAME, a system administrator gives that user a new one, which
they are to change; it is drawn and printed without --password-stdin.

All logins of that user end.`,
		Example: "  dfget user password\n  dfget user password --password-stdin < new-password\n  dfget user password ann",
		Args:    settings.Args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.ownPassword(cmd.Context(), fromStdin)
			}
			password, drawn, err := a.givenOrDrawn(fromStdin)
			if err != nil {
				return err
			}
			client, err := a.users()
			if err != nil {
				return err
			}
			if _, err := client.SetPassword(cmd.Context(), connect.NewRequest(&shoalv1.SetPasswordRequest{Name: args[0], Password: password})); err != nil {
				return fmt.Errorf("give the user a password: %w", err)
			}
			return a.tellPassword(args[0], password, drawn, "%s has a new password.")
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the new password from standard input")
	return cmd
}

// ownPassword changes the password of whoever is logged in, whose old one is
// the one that was kept.
func (a *app) ownPassword(ctx context.Context, fromStdin bool) error {
	u, err := a.supernodeURL()
	if err != nil {
		return err
	}
	creds, err := credentialsFor(u.Host)
	if err != nil {
		return err
	}
	if creds.identity != "" {
		return fmt.Errorf("%w: you are logged in with a token, not with a password; log in with 'dfget login -u USER', or change it where you log in", settings.ErrUsage)
	}
	client, err := a.users()
	if err != nil {
		return err
	}
	next, err := a.newPassword(fromStdin)
	if err != nil {
		return err
	}
	answer, err := client.ChangePassword(ctx, connect.NewRequest(&shoalv1.ChangePasswordRequest{OldPassword: creds.password, NewPassword: next}))
	if err != nil {
		return fmt.Errorf("change the password: %w", err)
	}
	if err := storeCredentials(u.Host, credentials{user: creds.user, password: next}); err != nil {
		return fmt.Errorf("the password was changed, and not kept: %w; log in again with the new one", err)
	}
	return a.tell(answer.Msg, "Changed the password of %s.", creds.user)
}

func (a *app) newPassword(fromStdin bool) (string, error) {
	if fromStdin {
		return readPassword(a.in)
	}
	file, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return "", fmt.Errorf("%w: there is no terminal to ask on; use --password-stdin", settings.ErrUsage)
	}
	var typed [2]string
	for i, question := range []string{"New password: ", "Once more: "} {
		fmt.Fprint(a.errOut, question)
		raw, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(a.errOut)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		typed[i] = string(raw)
	}
	if typed[0] != typed[1] {
		return "", fmt.Errorf("%w: the two passwords differ", settings.ErrUsage)
	}
	return typed[0], nil
}

func readPassword(in io.Reader) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(bufio.NewReader(in), maxPasswordBytes))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimRight(string(raw), "\r\n")
	if password == "" {
		return "", fmt.Errorf("%w: standard input holds no password", settings.ErrUsage)
	}
	return password, nil
}

// givenOrDrawn is the password on standard input, or one of 120 random bits.
func (a *app) givenOrDrawn(fromStdin bool) (password string, drawn bool, err error) {
	if fromStdin {
		password, err = readPassword(a.in)
		return password, false, err
	}
	raw := make([]byte, 15)
	if _, err := rand.Read(raw); err != nil {
		return "", false, fmt.Errorf("draw a password: %w", err)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw)), true, nil
}

// tellPassword says what was done, and a password that nobody else knows.
func (a *app) tellPassword(user, password string, drawn bool, format string) error {
	if a.json {
		out := map[string]string{"user": user}
		if drawn {
			out["password"] = password
		}
		return json.NewEncoder(a.out).Encode(out)
	}
	a.say(format, user)
	if drawn {
		a.say("The password is shown once:")
		fmt.Fprintln(a.out, password)
	}
	return nil
}
