package access

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/util/suggest"
	"github.com/spf13/pflag"
)

// Parse parses a command line. The error of a flag that there is not names the one
// that was most likely meant, and where all are. That of --help is [pflag.ErrHelp].
func Parse(f *pflag.FlagSet, args []string) error {
	err := f.Parse(args)
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	f.VisitAll(func(flag *pflag.Flag) { names = append(names, "--"+flag.Name) })
	err = suggest.WrapError(err, "--"+unknown.GetSpecifiedName(), names, true)
	return fmt.Errorf("%w: see --help", err)
}
