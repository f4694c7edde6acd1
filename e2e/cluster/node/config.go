package node

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed templates
var templates embed.FS

// values are what the templates of configuration files need.
type values struct {
	Config
	Token, ServiceNet, PodNet, NodeName, Domain, RegistryPort, PauseImage string
	CNI, Runc                                                             string
	Extra                                                                 string
}

// pauseImage is the name of the image of pods' sandboxes.
const pauseImage = "localhost/pause:node"

// writeConfigs writes the configuration of every program.
func writeConfigs(cfg Config) error {
	v := values{
		Config: cfg, Token: adminToken, ServiceNet: serviceNet, PodNet: podNet, NodeName: nodeName, Domain: clusterName,
		RegistryPort: registryPort, PauseImage: pauseImage, CNI: "/usr/lib/cni",
		Runc: cfg.Programs.Runtime(cfg.Runtime, "runc"), Extra: strings.Join(cfg.Kubelet, "\n"),
	}
	host := filepath.Join("certs.d", cfg.NodeIP+":"+registryPort)
	if err := os.MkdirAll(filepath.Join(cfg.Dir, host), 0o755); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	for file, name := range map[string]string{
		"admin.kubeconfig": "kubeconfig.yaml", "cni/10-bridge.conflist": "bridge.conflist",
		"containerd.toml": "containerd-" + string(cfg.Runtime) + ".toml", "registry.yml": "registry.yaml",
		"kubelet.yaml": "kubelet.yaml", "kube-proxy.yaml": "kube-proxy.yaml", host + "/hosts.toml": "hosts.toml",
	} {
		t, err := template.ParseFS(templates, "templates/"+name)
		if err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		var out bytes.Buffer
		if err := t.Execute(&out, v); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(cfg.Dir, file), out.Bytes(), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}
