package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kilnhook/kiln/infra/kiln/internal/kube/kubetest"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/localtest"
)

// TestMain lets the test binary be kiln and, for the stacks it starts, the
// executor beside it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kiln": func() { os.Exit(run()) },
		"kubectl-kiln": func() { os.Exit(run()) },
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
			return cluster(t, env)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"await-up": awaitUp},
	})
}

// cluster gives a script a kubeconfig, in $KUBECONFIG, of a cluster on which the stack
// of the script is the dispatcher.
func cluster(t *testing.T, env *testscript.Env) error {
	api := &kubetest.Server{
		Pods: []corev1.Pod{kubetest.Pod("kiln-dispatcher-1", corev1.ConditionTrue)},
		Secrets: []corev1.Secret{{
			ObjectMeta: metav1.ObjectMeta{Name: "kiln-secrets", Namespace: "kiln"}, Data: map[string][]byte{"KILN_TOKEN": []byte("of-the-cluster")},
		}},
		Backend: func() (string, error) {
			a, err := address(env.Getenv("KILN_DATA"))
			return strings.TrimPrefix(a.HTTP, "http://"), err
		},
	}
	server := httptest.NewTLSServer(api.Handler())
	t.Cleanup(server.Close)
	file := filepath.Join(env.WorkDir, "kubeconfig")
	env.Setenv("KUBECONFIG", file)
	return os.WriteFile(file, []byte(kubetest.Kubeconfig(server.URL, "admin", "no-secrets", "no-pods")), 0o600)
}

// address is where the stack with its data in a directory listens.
func address(data string) (api.Address, error) {
	var a api.Address
	text, err := os.ReadFile(filepath.Join(data, "address.json"))
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	return a, err
}

func awaitUp(ts *testscript.TestScript, _ bool, _ []string) {
	for range 1500 {
		a, err := address(ts.Getenv("KILN_DATA"))
		if err == nil {
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
