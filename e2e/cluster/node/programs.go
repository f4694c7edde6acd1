package node

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// adminToken is the administrator's. Nobody outside the machine reaches the
// node, and it holds nothing but tests.
const adminToken = "node-admin"

// startPrograms starts the node's programs in the order they need.
func startPrograms(cfg Config) error {
	pki := func(name string) string { return filepath.Join(cfg.Dir, "pki", name) }
	kubeconfig := "--kubeconfig=" + filepath.Join(cfg.Dir, "admin.kubeconfig")
	conf := func(name string) string { return filepath.Join(cfg.Dir, name) }
	if err := makeKeys(pki); err != nil {
		return err
	}
	if err := errors.Join(
		start(cfg, "etcd", cfg.Programs.Kube("etcd"), "--data-dir="+conf("etcd"), "--listen-client-urls=http://127.0.0.1:2379",
			"--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
			"--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380",
			"--unsafe-no-fsync", "--log-level=warn"),
		start(cfg, "kube-apiserver", cfg.Programs.Kube("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0",
			"--advertise-address="+cfg.NodeIP, "--secure-port=6443", "--cert-dir="+conf("pki"),
			"--service-cluster-ip-range="+serviceNet, "--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file="+pki("sa.key"), "--service-account-signing-key-file="+pki("sa.key"),
			"--token-auth-file="+pki("tokens.csv"), "--authorization-mode=Node,RBAC", "--allow-privileged=true",
			"--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing=true"),
		start(cfg, "containerd", cfg.Programs.Runtime(cfg.Runtime, "containerd"), "-c", conf("containerd.toml")),
		start(cfg, "registry", cfg.Programs.Registry, "serve", conf("registry.yml")),
	); err != nil {
		return err
	}
	if err := importPause(cfg); err != nil {
		return err
	}
	if err := awaitAPI(cfg); err != nil {
		return err
	}
	return errors.Join(
		start(cfg, "kube-controller-manager", cfg.Programs.Kube("kube-controller-manager"), kubeconfig,
			"--service-account-private-key-file="+pki("sa.key"), "--root-ca-file="+pki("apiserver.crt"),
			"--use-service-account-credentials=true", "--leader-elect=false", "--allocate-node-cidrs=false"),
		start(cfg, "kube-scheduler", cfg.Programs.Kube("kube-scheduler"), kubeconfig, "--leader-elect=false"),
		startKubelet(cfg, "--config="+conf("kubelet.yaml"), kubeconfig, "--node-ip="+cfg.NodeIP, "--hostname-override="+nodeName, "--v=2"),
		start(cfg, "kube-proxy", cfg.Programs.Kube("kube-proxy"), "--config="+conf("kube-proxy.yaml")),
		start(cfg, "kube-dns", cfg.Programs.Kube("kube-dns"), cfg.NodeIP+":53", conf("admin.kubeconfig")),
	)
}

// start starts a program whose output goes to a log of its own. Init reaps it.
func start(cfg Config, name, program string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(cfg.Dir, "log", name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer null.Close()
	path := filepath.Dir(cfg.Programs.Runtime(cfg.Runtime, "runc")) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	p, err := os.StartProcess(program, append([]string{name}, args...), &os.ProcAttr{
		Files: []*os.File{null, log, log}, Env: []string{"PATH=" + path, "HOME=/root"},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return p.Release()
}

// kubeletView shows the kubelet the kernel settings it insists on. They belong to
// the whole machine, so they are not changed: in a mount namespace of the kubelet
// alone, files with the values it wants to see lie over them. In the node's own
// mount namespace they would keep the kernel from mounting /proc in the user
// namespaces of pods.
const kubeletView = `for p in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  f=/run/setting.$(basename "${p%=*}"); echo "${p#*=}" >"$f"; mount --bind "$f" "/proc/sys/${p%=*}"
done
exec "$@"`

func startKubelet(cfg Config, args ...string) error {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("start kubelet: %w", err)
	}
	return start(cfg, "kubelet", unshare, append([]string{
		"--mount", "--propagation", "unchanged", "sh", "-c", kubeletView, "sh", cfg.Programs.Kube("kubelet"),
	}, args...)...)
}

// makeKeys makes the key that signs service account tokens, and the token of
// the administrator. The API server makes its own certificate.
func makeKeys(pki func(string) string) error {
	if err := os.WriteFile(pki("tokens.csv"), []byte(adminToken+`,admin,admin,"system:masters"`+"\n"), 0o600); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	if _, err := os.Stat(pki("sa.key")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(pki("sa.key"), block, 0o600); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	return nil
}

// importPause waits for the runtime and gives it the image of pods' sandboxes.
func importPause(cfg Config) error {
	ctr := func(args ...string) error {
		cmd := exec.Command(cfg.Programs.Runtime(cfg.Runtime, "ctr"), append([]string{"-a", "/run/containerd/containerd.sock"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		}
		return nil
	}
	if err := retry(func() error { return ctr("version") }); err != nil {
		return fmt.Errorf("wait for containerd: %w", err)
	}
	if err := ctr("-n", "k8s.io", "images", "import", cfg.Programs.Pause); err != nil {
		return fmt.Errorf("import the sandbox image: %w", err)
	}
	return nil
}

// awaitAPI waits until the API server is ready.
func awaitAPI(cfg Config) error {
	err := retry(func() error {
		out, err := exec.Command(cfg.Programs.Kube("kubectl"), "--kubeconfig="+filepath.Join(cfg.Dir, "admin.kubeconfig"), "get", "--raw", "/readyz").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	return nil
}

// retry calls f until it succeeds or startTimeout is over.
func retry(f func() error) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(poll)
	}
}
