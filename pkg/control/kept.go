package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/durable"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// welcomeFile is where a welcome is kept in the agent's data folder.
const welcomeFile = "welcome.pb"

// SaveWelcome keeps a welcome in the data folder (it holds secrets: 0600).
func SaveWelcome(dir string, w *shoalv1.Welcome) error {
	raw, err := proto.Marshal(w)
	if err != nil {
		return fmt.Errorf("encode the welcome: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, welcomeFile), raw, 0o600)
}

// LoadWelcome reads the kept welcome; nil when this node never joined.
func LoadWelcome(dir string) (*shoalv1.Welcome, error) {
	path := filepath.Join(dir, welcomeFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // absence is an ordinary answer
	}
	if err != nil {
		return nil, fmt.Errorf("read what the supernode said: %w", err)
	}
	w := &shoalv1.Welcome{}
	if err := proto.Unmarshal(raw, w); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it and join again with a new token", path, err)
	}
	if len(w.Membership) == 0 || len(w.MemberKey) == 0 {
		return nil, fmt.Errorf("%s is damaged: it holds no membership; remove it and join again with a new token", path)
	}
	return w, nil
}
