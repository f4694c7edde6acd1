// Command imagediff says in what two container images differ.
//
//	imagediff [--mtime] [--layers] [--platform OS/ARCH] [--allow FILE] [--json] [--insecure] A B
//
// An image is a reference, the directory of an OCI image layout (DIR or
// DIR@DIGEST) or a docker archive. The exit status is 0 if the images are
// equal, 1 if they differ and 2 if that could not be found out.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/e2e/imagediff/compare"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const (
	exitDiffers = 1
	exitTrouble = 2
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "imagediff:", err)
		return exitTrouble
	}
	rest, excused, err := o.compare(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "imagediff:", err)
		return exitTrouble
	}
	if err := o.print(stdout, rest); err != nil {
		fmt.Fprintln(stderr, "imagediff:", err)
		return exitTrouble
	}
	if len(excused) > 0 {
		fmt.Fprintf(stderr, "imagediff: %d differences allowed by %s\n", len(excused), o.allow)
	}
	if len(rest) > 0 {
		return exitDiffers
	}
	return 0
}

// options are what the command line asks for.
type options struct {
	compare.Options
	open  compare.OpenOptions
	allow string
	json  bool
	refs  [2]string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var platform string
	flags := flag.NewFlagSet("imagediff", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: imagediff [flags] A B\n\n"+
			"A and B are references, OCI image layouts (DIR or DIR@DIGEST) or docker archives.")
		flags.PrintDefaults()
	}
	flags.BoolVar(&o.ModTimes, "mtime", false, "compare modification times too, to the second")
	flags.BoolVar(&o.Layers, "layers", false, "compare too which files each layer brings")
	flags.StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "which image of an index to compare")
	flags.StringVar(&o.allow, "allow", "", "file of allowed differences, each line: PART WHERE FIELD # REASON")
	flags.BoolVar(&o.json, "json", false, "print one JSON object a line")
	flags.BoolVar(&o.open.Insecure, "insecure", false, "speak HTTP to registries that are not on this machine")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() != len(o.refs) {
		return o, fmt.Errorf("want two images, got %d; see --help", flags.NArg())
	}
	copy(o.refs[:], flags.Args())
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return o, fmt.Errorf("--platform %q: %w", platform, err)
	}
	o.open.Platform = *p
	return o, nil
}

func (o options) compare(ctx context.Context) (rest, excused []compare.Difference, err error) {
	rules, err := o.rules()
	if err != nil {
		return nil, nil, err
	}
	var images [2]v1.Image
	for i, ref := range o.refs {
		if images[i], err = compare.Open(ctx, ref, o.open); err != nil {
			return nil, nil, err
		}
	}
	diffs, err := compare.Images(ctx, images[0], images[1], o.Options)
	if err != nil {
		return nil, nil, err
	}
	return compare.Excuse(diffs, rules)
}

func (o options) rules() ([]compare.Rule, error) {
	if o.allow == "" {
		return nil, nil
	}
	f, err := os.Open(o.allow)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rules, err := compare.ParseRules(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.allow, err)
	}
	return rules, nil
}

func (o options) print(w io.Writer, diffs []compare.Difference) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, d := range diffs {
		var err error
		if o.json {
			err = enc.Encode(d)
		} else {
			_, err = fmt.Fprintln(w, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
