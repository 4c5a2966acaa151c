// Command demo shows the whole of Shoal on one host: a supernode and four
// agents on loopback, an image that is pushed once and pulled through all four
// at once, and where each agent's bytes came from; who may pull and push; and a
// service that is placed where its image already is. It needs neither root nor
// a container engine; where they are, containerd runs the service, and Docker
// pulls through an agent as well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// agents is how many hosts the demo has.
	agents = 4
	// bound is how long the demo may take before it calls itself failed.
	bound = 3 * time.Minute
)

func main() {
	once := flag.Bool("once", false, "report and stop; the exit status says whether all of it held")
	bin := flag.String("bin", "bin", "folder with supernode, dfagent and dfget")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *bin, *once)
	interrupted := ctx.Err() != nil
	stop()
	if err != nil && !interrupted {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, once bool) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "shoal-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	h := &house{bin: bin, dir: dir, containerd: hasContainerd()}
	defer h.close()

	// The processes live as long as ctx; only showing is bounded.
	bounded, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	if err := h.show(ctx, bounded); err != nil {
		return errors.Join(err, h.logs())
	}
	if once {
		return nil
	}
	agent := h.agents[0]
	fmt.Printf(`
Open %s in a browser: user admin, password %s
Pull it yourself:       docker login %[3]s && docker pull %[3]s/%[4]s
Where bytes came from:  %[5]s --agent %[6]s pull-report --last

Ctrl-C stops everything and cleans up.
`, h.supernode.URL, h.supernode.Password, host(agent.Mirror), imageName, filepath.Join(bin, "dfget"), filepath.Join(agent.Data, "agent.sock"))
	select {
	case <-ctx.Done():
		fmt.Println("\nStopping.")
	case <-h.supernode.Done():
		return errors.Join(errors.New("the supernode ended by itself"), h.logs())
	}
	return nil
}
