// Package kubetest is an API server that knows just what kiln --kube asks for: pods, a
// Secret, and connections to a port, which it upgrades to SPDY as older API servers do.
package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
)

// Server is such an API server. What a user may is known by the bearer token: one that
// names a resource, as "no-secrets", may everything but that.
type Server struct {
	Pods    []corev1.Pod
	Secrets []corev1.Secret
	Backend func() (address string, err error) // what listens in every pod
}

// Kubeconfig is one for a server with TLS, with a context for each user, named like it; the first is current.
func Kubeconfig(url string, users ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Config\ncurrent-context: %s\nclusters:\n- {name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}\ncontexts:\n", users[0], url)
	for _, u := range users {
		fmt.Fprintf(&b, "- {name: %s, context: {cluster: c, user: %s}}\n", u, u)
	}
	b.WriteString("users:\n")
	for _, u := range users {
		fmt.Fprintf(&b, "- {name: %s, user: {token: %s}}\n", u, u)
	}
	return b.String()
}

// Pod is a pod of the dispatcher as Kiln's manifests make it.
func Pod(name string, ready corev1.ConditionStatus) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kiln", Labels: map[string]string{"app.kubernetes.io/name": "kiln-dispatcher"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "dispatcher", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kiln-secrets"}}}},
		}}},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
	}
}

// Handler serves the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", func(w http.ResponseWriter, r *http.Request) {
		var list corev1.PodList
		for _, p := range s.Pods {
			if p.Namespace == r.PathValue("namespace") && r.URL.Query().Get("labelSelector") == "app.kubernetes.io/name="+p.Labels["app.kubernetes.io/name"] {
				list.Items = append(list.Items, p)
			}
		}
		answer(w, http.StatusOK, list)
	})
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, o := range s.Secrets {
			if o.Namespace == r.PathValue("namespace") && o.Name == r.PathValue("name") {
				answer(w, http.StatusOK, o)
				return
			}
		}
		refuse(w, http.StatusNotFound, "there is no such secret")
	})
	mux.HandleFunc("/api/v1/namespaces/{namespace}/pods/{name}/portforward", s.forward)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if user == "" || user == "stranger" {
			refuse(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		path := strings.Split(r.URL.Path, "/") // "", "api", "v1", "namespaces", namespace, resource, name, sub
		for _, resource := range append(path[5:6:6], path[min(len(path), 7):]...) {
			if user == "no-"+resource && (resource != "pods" || len(path) == 6) {
				refuse(w, http.StatusForbidden, fmt.Sprintf("%s is forbidden: User %q cannot", resource, user))
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

func refuse(w http.ResponseWriter, code int, message string) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Message: message, Code: int32(code),
	})
}

// forward connects a port of a pod with the backend.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "this API server knows no WebSockets", http.StatusBadRequest)
		return
	}
	w.Header().Set(httpstream.HeaderProtocolVersion, "portforward.k8s.io")
	var wg sync.WaitGroup
	defer wg.Wait()
	failed := make(chan string, 1)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, replied <-chan struct{}) error {
		wg.Go(func() {
			<-replied
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				_, _ = io.WriteString(stream, <-failed) // "" is that all went well
				_ = stream.Close()
				return
			}
			failed <- s.pass(stream)
		})
		return nil
	})
	if conn == nil {
		return
	}
	<-conn.CloseChan()
	select {
	case failed <- "": // of a client that opened no connection
	default:
	}
}

// pass connects a stream with the backend, and says what went wrong.
func (s *Server) pass(stream httpstream.Stream) string {
	defer func() { _ = stream.Reset() }()
	if port := stream.Headers().Get(corev1.PortHeader); port != "8080" {
		return "nothing listens on port " + port
	}
	address, err := s.Backend()
	if err != nil {
		return err.Error()
	}
	backend, err := net.Dial("tcp", address) //nolint:noctx // ends with the streams
	if err != nil {
		return "connection refused: " + err.Error()
	}
	go func() {
		_, _ = io.Copy(backend, stream) // the client has gone
		_ = backend.Close()
	}()
	_, _ = io.Copy(stream, backend)
	return ""
}
