package main

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/shoalproject/shoal/pkg/identity"
	"github.com/shoalproject/shoal/pkg/settings"
	"github.com/shoalproject/shoal/pkg/token"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
	"github.com/shoalproject/shoal/proto/shoal/v1/shoalv1connect"
)

// openTokenKeys makes or reads the keys that sign tokens.
func openTokenKeys(dir string) (*token.Ring, error) {
	stored, err := identity.LoadOrCreateTokenKeys(dir)
	if err != nil {
		return nil, err
	}
	var keys []token.SigningKey
	for _, k := range stored {
		keys = append(keys, token.SigningKey(k))
	}
	return token.NewRing(keys...)
}

func keepTokenKeys(dir string) func([]token.SigningKey) error {
	return func(keys []token.SigningKey) error {
		var stored []identity.TokenKey
		for _, k := range keys {
			stored = append(stored, identity.TokenKey(k))
		}
		return identity.SaveTokenKeys(dir, stored)
	}
}

// tellKeys has every host ask for the token keys as they are now.
func (h *house) tellKeys() {
	if h.fleet == nil {
		return // at the start, nothing is connected yet
	}
	h.fleet.Tell(&shoalv1.Order{What: &shoalv1.Order_Renew{Renew: &shoalv1.Renew{}}})
}

func rotateKeysCommand() *cobra.Command {
	var data string
	var after time.Duration
	cmd := &cobra.Command{
		Use:   "rotate-keys",
		Short: "Sign tokens with a new key; nobody notices",
		Long: `Sign tokens with a new key. It is published at once and signs some minutes later,
when every agent has heard of it; the old one is published until its last token
is out. Logins, refresh tokens and robots stay as they are.`,
		Example: "  supernode rotate-keys --data /var/lib/shoal\n  supernode rotate-keys --after 10m",
		Args:    settings.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := socket(data)
			if err != nil {
				return err
			}
			request := &shoalv1.RotateTokenKeysRequest{}
			if cmd.Flags().Changed("after") {
				n := int64(after / time.Second)
				request.SignAfterSeconds = &n
			}
			answer, err := shoalv1connect.NewKeyServiceClient(client, socketBase).RotateTokenKeys(cmd.Context(), connect.NewRequest(request))
			if err != nil {
				return fmt.Errorf("rotate the token keys: %w", err)
			}
			m := answer.Msg
			fmt.Fprintf(cmd.OutOrStdout(), "the key %s signs from %s on; tokens of the old one are believed until %s\n", m.KeyId,
				m.SignsFrom.AsTime().Local().Format(time.DateTime), m.OldUntil.AsTime().Local().Format(time.DateTime))
			return nil
		},
	}
	dataFlag(cmd, &data)
	cmd.Flags().DurationVar(&after, "after", 0, "publish the new key for so long before it signs, instead of the time that agents need to hear of it;\nwith less, agents may refuse good tokens for a while")
	return cmd
}
