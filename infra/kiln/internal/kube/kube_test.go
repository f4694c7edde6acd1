package kube

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kilnhook/kiln/infra/kiln/internal/kube/kubetest"
)

// world is a cluster with two dispatchers of which one is ready.
func world(t *testing.T) (*kubetest.Server, string) {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s said %s", r.Header.Get("Authorization"), r.URL.Path)
	}))
	t.Cleanup(backend.Close)
	s := &kubetest.Server{
		Pods: []corev1.Pod{kubetest.Pod("kiln-dispatcher-1", corev1.ConditionFalse), kubetest.Pod("kiln-dispatcher-2", corev1.ConditionTrue)},
		Secrets: []corev1.Secret{{
			ObjectMeta: metav1.ObjectMeta{Name: "kiln-secrets", Namespace: "kiln"}, Data: map[string][]byte{"KILN_TOKEN": []byte("first\nsecond\n")},
		}},
		Backend: func() (string, error) { return backend.Listener.Addr().String(), nil },
	}
	server := httptest.NewTLSServer(s.Handler())
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := kubetest.Kubeconfig(server.URL, "admin", "no-secrets", "no-pods", "no-portforward", "stranger")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, file
}

func open1(t *testing.T, o Options) *Cluster {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask asks the dispatcher something over a connection of its own.
func ask(t *testing.T, c *Cluster) (string, error) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/v1/builds", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer x")
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestDial proves that requests reach the dispatcher's port with a header of their own.
func TestDial(t *testing.T) {
	_, file := world(t)
	c := open1(t, Options{File: file})
	for range 3 {
		if got, err := ask(t, c); got != "Bearer x said /v1/builds" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// TestWhatIsWrong proves that every way not to reach the dispatcher says what to do.
func TestWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct {
		context, namespace string
		change             func(*kubetest.Server)
		want               string
	}{
		"no right to pods":    {"no-pods", "", nil, "you may not list pods in namespace kiln of context no-pods: ask for the Role"},
		"no right to connect": {"no-portforward", "", nil, "you may not connect to pods in namespace kiln of context no-portforward: ask for the Role"},
		"not logged in":       {"stranger", "", nil, "the cluster of context stranger does not know you: log in"},
		"no dispatcher":       {"admin", "elsewhere", nil, "no dispatcher is in namespace elsewhere of context admin: name its namespace with --namespace"},
		"none is ready": {"admin", "", func(s *kubetest.Server) { s.Pods = s.Pods[:1] },
			"no dispatcher in namespace kiln is ready: see kubectl --context admin -n kiln describe pod kiln-dispatcher-1"},
		"no port": {"admin", "", func(s *kubetest.Server) { s.Pods[1].Spec.Containers[0].Ports = nil }, "names no port"},
		"another port": {"admin", "", func(s *kubetest.Server) { s.Pods[1].Spec.Containers[0].Ports[0].ContainerPort = 9 },
			"connection to kiln-dispatcher-2:9: nothing listens on port 9"},
		"nothing listens": {"admin", "", func(s *kubetest.Server) {
			s.Backend = func() (string, error) { return "", errors.New("it has crashed") }
		},
			"connection to kiln-dispatcher-2:8080: it has crashed"},
	} {
		t.Run(name, func(t *testing.T) {
			s, file := world(t)
			if tc.change != nil {
				tc.change(s)
			}
			if got, err := ask(t, open1(t, Options{File: file, Context: tc.context, Namespace: tc.namespace})); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// TestOpen proves that a kubeconfig which does not do says why, with what there is.
func TestOpen(t *testing.T) {
	_, file := world(t)
	dir := t.TempDir()
	none, broken := filepath.Join(dir, "none"), filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("contexts: {"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"no file":         {Options{Files: []string{none}}, "there is no context in the kubeconfig " + none + ": name another file with --kubeconfig or KUBECONFIG"},
		"no named file":   {Options{File: none}, "read kubeconfig: stat " + none},
		"broken":          {Options{File: broken}, "read kubeconfig: "},
		"no such context": {Options{Files: []string{none, file}, Context: "prod"}, "has no context prod: it has admin, no-pods, no-portforward, no-secrets, stranger"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	if got := Files("a:b", "/home/u"); len(got) != 2 || got[1] != "b" {
		t.Errorf("%q", got)
	}
	if got := Files("", "/home/u"); len(got) != 1 || got[0] != "/home/u/.kube/config" {
		t.Errorf("%q", got)
	}
}

// TestToken proves that the token is found wherever a manifest may put it, and that its
// absence is explained.
func TestToken(t *testing.T) {
	container := func(s *kubetest.Server) *corev1.Container { return &s.Pods[1].Spec.Containers[0] }
	for name, tc := range map[string]struct {
		context string
		change  func(*kubetest.Server)
		token   string
		why     string
	}{
		"of the environment's Secret": {"admin", nil, "first", ""},
		"of a Secret's key": {"admin", func(s *kubetest.Server) {
			s.Secrets[0].Data = map[string][]byte{"door": []byte("third")}
			container(s).Env = []corev1.EnvVar{{Name: "KILN_TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kiln-secrets"}, Key: "door",
			}}}}
		}, "third", ""},
		"of the pod": {"admin", func(s *kubetest.Server) { container(s).Env = []corev1.EnvVar{{Name: "KILN_TOKEN", Value: "plain"}} }, "plain", ""},
		"with a prefix": {"admin", func(s *kubetest.Server) {
			container(s).EnvFrom[0].Prefix = "KILN_"
			s.Secrets[0].Data["TOKEN"] = []byte("short")
		}, "short", ""},
		"not to be read": {"no-secrets", nil, "", "you may not read Secret kiln-secrets in namespace kiln"},
		"nowhere":        {"admin", func(s *kubetest.Server) { s.Secrets = nil }, "", "pod kiln-dispatcher-2 does not have it in the variable KILN_TOKEN"},
	} {
		t.Run(name, func(t *testing.T) {
			s, file := world(t)
			if tc.change != nil {
				tc.change(s)
			}
			token, why, err := open1(t, Options{File: file, Context: tc.context}).Token(t.Context())
			if token != tc.token || why != tc.why || err != nil {
				t.Errorf("%q, %q, %v", token, why, err)
			}
		})
	}
}

var _ net.Conn = (*stream)(nil)
