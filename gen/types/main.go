// Command types writes what follows from the API types alone: their deep copies
// and definitions. Command gen does too, and imports the types: run this one first
// when they do not compile without new deep copies. It takes no flags, and runs in
// the root of the repository.
package main

import (
	"fmt"
	"os"

	"github.com/nationtech/harmony-fleet/gen/api"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "types:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	files, err := api.Files(root)
	if err != nil {
		return err
	}
	written, err := files.Write(root)
	for _, path := range written {
		fmt.Println("wrote", path)
	}
	return err
}
