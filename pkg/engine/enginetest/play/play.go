// Package play is what the containers of the engine suite do. The program of
// the test image is nothing but it, and the engine in memory runs it as a
// function, so one suite speaks with both.
package play

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Main does what args say, writes to out and returns the exit code. ctx ends
// with the stop signal.
//
//	say LINE…      print each
//	exit N         end with this code
//	env NAME       print the variable
//	wait           print "waiting" and wait for the stop signal, print "bye"
//	stubborn       print "waiting" and take no notice of the stop signal
//	count          print 1, 2, 3, … a line each 20 ms until the stop signal
//	flood BYTES    print numbered lines of so many bytes in all, then wait
//	serve          listen on a port of the kernel's choice, print it, then wait
//	eat MIB        fill so much memory, print "full", then wait
//	burn DURATION  keep two cores busy and print the CPU seconds that it got
func Main(ctx context.Context, args, env []string, out io.Writer) int {
	what, rest := "", []string(nil)
	if len(args) > 0 {
		what, rest = args[0], args[1:]
	}
	arg := strings.Join(rest, " ")
	number, _ := strconv.Atoi(arg)
	switch what {
	case "say":
		for _, line := range rest {
			fmt.Fprintln(out, line)
		}
	case "exit":
		return number
	case "env":
		for _, e := range slices.Backward(env) {
			if value, ok := strings.CutPrefix(e, arg+"="); ok {
				fmt.Fprintln(out, value)
				return 0
			}
		}
		return 1
	case "wait":
		wait(ctx, "waiting", out)
	case "stubborn":
		fmt.Fprintln(out, "waiting")
		<-time.After(time.Hour)
	case "count":
		count(ctx, out)
	case "flood":
		flood(number, out)
		wait(ctx, "flooded", out)
	case "serve":
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(out, err)
			return 1
		}
		defer listener.Close()
		wait(ctx, listener.Addr().String(), out)
	case "eat":
		eaten := eat(number)
		wait(ctx, "full", out)
		runtime.KeepAlive(eaten)
	case "burn":
		return burn(arg, out)
	default:
		fmt.Fprintf(out, "cannot play %q\n", args)
		return 2
	}
	return 0
}

func wait(ctx context.Context, line string, out io.Writer) {
	fmt.Fprintln(out, line)
	<-ctx.Done()
	fmt.Fprintln(out, "bye")
}

func count(ctx context.Context, out io.Writer) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 1; ctx.Err() == nil; i++ {
		fmt.Fprintln(out, i)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// FloodLine is a line of a flood.
func FloodLine(i int) string { return fmt.Sprintf("%09d %s\n", i, strings.Repeat("x", 1013)) }

func flood(n int, out io.Writer) {
	for i, sent := 0, 0; sent < n; i++ {
		written, err := io.WriteString(out, FloodLine(i))
		if err != nil {
			return
		}
		sent += written
	}
}

// eat touches each page, so that the memory is really taken.
func eat(mib int) [][]byte {
	var out [][]byte
	for range mib {
		piece := make([]byte, 1<<20)
		for i := 0; i < len(piece); i += 4096 {
			piece[i] = 1
		}
		out = append(out, piece)
	}
	return out
}

func burn(text string, out io.Writer) int {
	long, err := time.ParseDuration(text)
	if err != nil {
		fmt.Fprintln(out, err)
		return 2
	}
	var busy sync.WaitGroup
	end := time.Now().Add(long)
	for range 2 {
		busy.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
			}
		})
	}
	busy.Wait()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		fmt.Fprintln(out, err)
		return 1
	}
	fmt.Fprintf(out, "%.3f\n", time.Duration(used.Utime.Nano()+used.Stime.Nano()).Seconds())
	return 0
}
