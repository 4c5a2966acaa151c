// Command hello is what a test image runs: it prints the line that the image
// carries and ends, or goes on as its arguments say.
//
//	hello                   prints the line
//	hello serve [PORT]      prints it, accepts connections, and ends well when asked to
//	hello exit CODE         prints it and ends with the code
//	hello fill BYTES        prints it and takes so much memory
//	hello spin              prints it and takes all of a core
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	line, err := os.ReadFile("/line")
	if err != nil {
		fail(err)
	}
	fmt.Print(string(line))
	args := append(os.Args[1:], "", "")
	switch args[0] {
	case "":
	case "serve":
		serve(args[1])
	case "exit":
		os.Exit(int(number(args[1])))
	case "fill":
		fill(number(args[1]))
		wait()
	case "spin":
		for n := 0; ; n++ {
			n ^= n << 1
		}
	default:
		fail(fmt.Errorf("unknown argument %q", args[0]))
	}
}

func serve(port string) {
	if port != "" {
		listener, err := net.Listen("tcp", ":"+port) //nolint:noctx // the only thing this process does
		if err != nil {
			fail(err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(conn, os.Getenv("GREETING"))
				conn.Close()
			}
		}()
	}
	wait()
}

// fill writes to each page, so that it is really taken.
func fill(n int64) {
	taken := make([]byte, n)
	for i := 0; i < len(taken); i += 4096 {
		taken[i] = 1
	}
	fmt.Println("taken", len(taken))
}

// wait ends well at SIGTERM, which a first process has to ask for.
func wait() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	<-asked
	fmt.Println("asked to end")
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		fail(err)
	}
	return n
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "hello:", err)
	os.Exit(1)
}
