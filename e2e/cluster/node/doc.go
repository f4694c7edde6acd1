// Package node runs a real Kubernetes node for tests: etcd, the control plane, a
// container runtime, the kubelet and kube-proxy, in namespaces of their own.
//
// The node has its own process, mount, network, host name, IPC and cgroup
// namespaces and no route out of the machine. One veth pair joins it to the
// host, so that tests reach the API server, the registry and the node ports from
// outside. Its first process, which Init is, holds everything: when it ends,
// the kernel ends every process, mount, link and rule of the node. Several nodes may
// run at once.
//
// It needs root, Debian's containernetworking-plugins, iptables, conntrack,
// docker-registry and, for the runtime Debian, containerd and runc. No setting
// of the host is changed.
package node
