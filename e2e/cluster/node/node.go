package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime is the container runtime of a node.
type Runtime string

// The runtimes. Debian's containerd 1.6 knows neither user-namespace pods nor
// image volumes; the one of e2e/cluster/cri does.
const (
	Debian Runtime = "debian"
	Built  Runtime = "built"
)

// Config describes a node. Everything is required but KubeletArgs.
type Config struct {
	Dir      string   // state: keys, etcd, images, logs
	Programs Programs // see Compile
	Runtime  Runtime
	HostIP   string // of the host's end of the veth pair; a /30 with NodeIP
	NodeIP   string
	Link     string   // name of the host's end of the veth pair
	Unified  bool     // the machine has cgroup version 2
	Kubelet  []string // further lines of the kubelet's configuration, YAML
	Bound    bool     // the node ends with the process that started it, whatever ends that
}

// Node is a running node.
type Node struct {
	cfg Config
	pid int // of Init, as the host sees it
}

// Kubeconfig is the path of the administrator's configuration.
func (n *Node) Kubeconfig() string { return filepath.Join(n.cfg.Dir, "admin.kubeconfig") }

// IP is the node's address, on which its API server, registry and node ports
// answer the host.
func (n *Node) IP() string { return n.cfg.NodeIP }

// HostIP is the host's address as pods see it.
func (n *Node) HostIP() string { return n.cfg.HostIP }

// Registry is the registry of the node, plain HTTP, for the host and for pods.
func (n *Node) Registry() string { return net.JoinHostPort(n.cfg.NodeIP, registryPort) }

// Kubectl returns a command of kubectl.
func (n *Node) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.cfg.Programs.Kube("kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.Kubeconfig())
	return cmd
}

const (
	registryPort = "5001"
	// startTimeout is how long a node may take to be ready on a busy machine.
	startTimeout = 4 * time.Minute
	poll         = 100 * time.Millisecond
)

// NewConfig fills in a free subnet and the name of the link.
func NewConfig(dir string, programs Programs, rt Runtime) (Config, error) {
	used := map[string]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return Config{}, fmt.Errorf("look for a free subnet: %w", err)
	}
	for _, a := range addrs {
		used[a.String()] = true
	}
	for i := range 64 {
		host := fmt.Sprintf("10.77.%d.1", i)
		if used[host+"/30"] {
			continue
		}
		return Config{
			Dir: dir, Programs: programs, Runtime: rt, HostIP: host,
			NodeIP: fmt.Sprintf("10.77.%d.2", i), Link: "kilnnode" + strconv.Itoa(i), Unified: hasUnified(),
		}, nil
	}
	return Config{}, errors.New("look for a free subnet: 64 nodes run already; stop one with \"go run ./e2e/cluster down DIR\"")
}

// Start starts a node and waits until it is ready for pods. init is the command
// that calls Init with the directory as its last argument, in the node's
// namespaces. Unless it is bound, the node outlives the caller; Stop ends it.
func Start(ctx context.Context, cfg Config, init []string) (*Node, error) {
	for _, dir := range stateDirs() {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("start node: %w", err)
		}
	}
	if err := saveConfig(cfg); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(cfg.Dir, "log", "init.log"))
	if err != nil {
		return nil, fmt.Errorf("start node: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(init[0], append(init[1:], cfg.Dir)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
	}
	if cfg.Bound {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends the signal when the thread ends that started the node.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start node (it needs root): %w", err)
	}
	n := &Node{cfg: cfg, pid: cmd.Process.Pid}
	if err := n.connect(ctx); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	if err := n.await(ctx, ended); err != nil {
		return nil, errors.Join(err, n.Stop())
	}
	return n, nil
}

// Open finds the node that runs on a directory.
func Open(dir string) (*Node, error) {
	cfg, err := loadConfig(dir)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "init.pid"))
	if err != nil {
		return nil, fmt.Errorf("find node: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("find node: read %s: %w", filepath.Join(dir, "init.pid"), err)
	}
	return &Node{cfg: cfg, pid: pid}, nil
}

// connect gives the node its end of the veth pair.
func (n *Node) connect(ctx context.Context) error {
	pid := strconv.Itoa(n.pid)
	if err := os.WriteFile(filepath.Join(n.cfg.Dir, "init.pid"), []byte(pid), 0o644); err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	for _, args := range [][]string{
		{"link", "add", n.cfg.Link, "type", "veth", "peer", "name", nodeLink, "netns", pid},
		{"addr", "add", n.cfg.HostIP + "/30", "dev", n.cfg.Link},
		{"link", "set", n.cfg.Link, "up"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("connect node: ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// await waits until pods can be made.
func (n *Node) await(ctx context.Context, ended <-chan error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it took too long"))
	defer cancel()
	for _, ready := range [][]string{
		{"get", "node", nodeName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`},
		{"get", "serviceaccount", "default", "-o", "jsonpath=True{.metadata.name}"},
	} {
		for {
			out, err := n.Kubectl(ctx, ready...).Output()
			if err == nil && strings.HasPrefix(string(out), "True") {
				break
			}
			select {
			case err := <-ended:
				return fmt.Errorf("the node ended: %w; its logs are in %s", errors.Join(err, errors.New("too early")), filepath.Join(n.cfg.Dir, "log"))
			case <-ctx.Done():
				return fmt.Errorf("wait for node: %w; its logs are in %s", context.Cause(ctx), filepath.Join(n.cfg.Dir, "log"))
			case <-time.After(poll):
			}
		}
	}
	return nil
}

// Stop ends the node and everything in it, and removes the cgroups of its pods.
// Its directory stays.
func (n *Node) Stop() error {
	groups := podCgroups(n.cfg, n.pid)
	var errs []error
	if err := syscall.Kill(n.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		errs = append(errs, fmt.Errorf("stop node: %w", err))
	}
	for syscall.Kill(n.pid, 0) == nil && !isZombie(n.pid) {
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := net.InterfaceByName(n.cfg.Link); err == nil {
		if out, err := exec.Command("ip", "link", "delete", n.cfg.Link).CombinedOutput(); err != nil && !strings.Contains(string(out), "Cannot find device") {
			errs = append(errs, fmt.Errorf("stop node: ip link delete: %w: %s", err, out))
		}
	}
	for _, dir := range groups {
		errs = append(errs, removeCgroup(dir))
	}
	if err := os.Remove(filepath.Join(n.cfg.Dir, "init.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// isZombie reports whether a process has ended and waits for its parent.
func isZombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(raw), ") ")
	return ok && strings.HasPrefix(rest, "Z")
}

func saveConfig(cfg Config) error {
	raw, err := json.MarshalIndent(cfg, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(cfg.Dir, "node.json"), raw, 0o644)
	}
	if err != nil {
		return fmt.Errorf("save node's configuration: %w", err)
	}
	return nil
}

func loadConfig(dir string) (Config, error) {
	var cfg Config
	raw, err := os.ReadFile(filepath.Join(dir, "node.json"))
	if err == nil {
		err = json.Unmarshal(raw, &cfg)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read node's configuration: %w", err)
	}
	return cfg, nil
}
