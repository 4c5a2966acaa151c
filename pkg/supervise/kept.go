package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/shoalproject/shoal/pkg/durable"
	shoalv1 "github.com/shoalproject/shoal/proto/shoal/v1"
)

// keptFile is where the state lies in the agent's data folder. It holds the
// containers' environment, so it is for the agent alone.
const keptFile = "containers.json"

// kept is what outlives the agent.
type kept struct {
	// Desired is the last one, encoded; nil before the first.
	Desired []byte
	Records map[string]record
}

func save(dir string, desired *shoalv1.Desired, records map[string]record) error {
	k := kept{Records: records}
	var err error
	if desired != nil {
		if k.Desired, err = proto.Marshal(desired); err != nil {
			return fmt.Errorf("encode what is to run: %w", err)
		}
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode what is to run: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, keptFile), raw, 0o600)
}

// load reads what was saved; desired is nil when nothing ever was.
func load(dir string) (desired *shoalv1.Desired, records map[string]record, err error) {
	path := filepath.Join(dir, keptFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, map[string]record{}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read what is to run: %w", err)
	}
	var k kept
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, nil, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if k.Desired != nil {
		desired = &shoalv1.Desired{}
		if err := proto.Unmarshal(k.Desired, desired); err != nil {
			return nil, nil, fmt.Errorf("%s is damaged: %w", path, err)
		}
	}
	if k.Records == nil {
		k.Records = map[string]record{}
	}
	return desired, k.Records, nil
}
