// Command tfdoc writes the tables of inputs and outputs into the README.md of
// the root module, every module and every example.
//
//	cd terraform/tests && go run ./tfdoc
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kilnhook/kiln/terraform/tests/tables"
)

func main() {
	if err := write(".."); err != nil {
		fmt.Fprintln(os.Stderr, "tfdoc:", err)
		os.Exit(1)
	}
}

func write(root string) error {
	dirs, err := tables.Dirs(root)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		data, err := tables.Update(dir)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "README.md"), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
