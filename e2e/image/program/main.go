// Command hello is what a test image runs: it prints the line that the image
// carries.
package main

import (
	"fmt"
	"os"
)

func main() {
	line, err := os.ReadFile("/line")
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
	fmt.Print(string(line))
}
