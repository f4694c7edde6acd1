package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nodeName    = "node"
	nodeLink    = "eth0" // the node's end of the veth pair
	serviceNet  = "10.96.0.0/16"
	podNet      = "10.88.0.0/16"
	clusterName = "cluster.local"
)

// stateDirs are the directories of a node's state.
func stateDirs() []string {
	return []string{
		"log", "etcd", "pki", "kubelet", "containerd", "pod-logs", "container-logs", "cni", "registry", "certs.d",
	}
}

// Init is the first process of a node, in its namespaces: it makes the node's
// view of the machine, starts its programs, and reaps until it is killed.
func Init(dir string) error {
	if os.Getpid() != 1 {
		return errors.New("this is not the first process of a node; use Start")
	}
	cfg, err := loadConfig(dir)
	if err != nil {
		return err
	}
	for _, step := range []func(Config) error{mountView, connectInside, writeConfigs, startPrograms} {
		if err := step(cfg); err != nil {
			return err
		}
	}
	return reap()
}

// mountView mounts what the node sees differently from the host.
func mountView(cfg Config) error {
	if err := unix.Sethostname([]byte(nodeName)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	state := func(name string) string { return filepath.Join(cfg.Dir, name) }
	for _, m := range []struct {
		source, target, kind, data string
		flags                      uintptr
	}{
		{"proc", "/proc", "proc", "", 0},
		{"tmpfs", "/run", "tmpfs", "mode=755", 0},
		{state("kubelet"), "/var/lib/kubelet", "", "", unix.MS_BIND},
		{"", "/var/lib/kubelet", "", "", unix.MS_SHARED},
		{state("containerd"), "/var/lib/containerd", "", "", unix.MS_BIND},
		{state("pod-logs"), "/var/log/pods", "", "", unix.MS_BIND},
		{state("container-logs"), "/var/log/containers", "", "", unix.MS_BIND},
		{"", "/run", "", "", unix.MS_SHARED},
		{"sysfs", "/sys", "sysfs", "", 0},
	} {
		if m.source != "" {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return fmt.Errorf("make mount point: %w", err)
			}
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return mountCgroups(cfg)
}

// mountCgroups mounts the hierarchies again, with the node's namespace as root.
func mountCgroups(cfg Config) error {
	const root = "/sys/fs/cgroup"
	if cfg.Unified {
		return wrapMount(root, unix.Mount("cgroup2", root, "cgroup2", 0, ""))
	}
	if err := unix.Mount("cgroup", root, "tmpfs", 0, "mode=755"); err != nil {
		return wrapMount(root, err)
	}
	for _, c := range append([]string{"systemd"}, controllers()...) {
		dir, data := filepath.Join(root, c), c
		if c == "systemd" {
			data = "none,name=systemd"
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount("cgroup", dir, "cgroup", 0, data); err != nil {
			return wrapMount(dir, err)
		}
		if err := os.Mkdir(filepath.Join(dir, cfg.CgroupRoot()), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make the node's cgroup: %w", err)
		}
	}
	return nil
}

func wrapMount(target string, err error) error {
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// connectInside sets up the node's end of the network, once the host made it.
func connectInside(cfg Config) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := net.InterfaceByName(nodeLink); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("connect node: the host made no %s", nodeLink)
		}
		time.Sleep(20 * time.Millisecond)
	}
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv4/conf/all/route_localnet": "1",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0o644); err != nil {
			return fmt.Errorf("connect node: %w", err)
		}
	}
	for _, command := range []string{
		"ip link set lo up",
		"ip addr add " + cfg.NodeIP + "/30 dev " + nodeLink,
		"ip link set " + nodeLink + " up",
		// An address of a service needs some route before it is rewritten; none leads outside.
		"ip route add " + serviceNet + " dev " + nodeLink + " src " + cfg.NodeIP,
		// The host knows no route to pods, so to it they speak as the node.
		"iptables --table nat --append POSTROUTING --source " + podNet + " --out-interface " + nodeLink + " --jump MASQUERADE",
	} {
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("connect node: %s: %w: %s", command, err, out)
		}
	}
	return nil
}

// reap collects every process that ends, for ever.
func reap() error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("nothing is left of the node: %w", err)
		case status.Signaled() || status.ExitStatus() != 0:
			fmt.Fprintf(os.Stderr, "%s process %d ended: %s\n", time.Now().Format(time.TimeOnly), pid, describe(status))
		}
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("status %d", s.ExitStatus())
}
