package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/localtest"
)

// TestMain lets the test binary be kiln and, for the stacks it starts, the
// executor beside it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kiln": func() { os.Exit(run()) },
		"executor": func() {
			os.Exit(localtest.Executor(context.Background(), localtest.Process{Args: os.Args[1:], Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now}))
		},
	})
}

// The scripts in testdata/script run kiln as a person does. The command
// await-up waits until the stack with its data in $KILN_DATA answers.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("KILN_DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("KILN_BASE_MIRROR", "127.0.0.1:1") // no script needs a base image
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await-up": awaitUp},
	})
}

func awaitUp(ts *testscript.TestScript, _ bool, _ []string) {
	for range 1500 {
		var a api.Address
		data, err := os.ReadFile(filepath.Join(ts.Getenv("KILN_DATA"), "address.json"))
		if err == nil && json.Unmarshal(data, &a) == nil {
			if resp, err := http.Get(a.HTTP + "/healthz"); err == nil {
				resp.Body.Close()
				ts.Setenv("URL", a.HTTP)
				ts.Setenv("S3URL", a.S3)
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("the stack does not come up")
}
