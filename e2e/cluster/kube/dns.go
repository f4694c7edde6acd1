package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// serviceDomain ends the names of services.
const serviceDomain = ".svc.cluster.local."

// runDNS answers questions for the addresses of services over UDP until it is
// killed. Names of nothing else exist: the node has no way out.
func runDNS(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: kube-dns ADDRESS KUBECONFIG")
	}
	config, err := clientcmd.BuildConfigFromFlags("", args[1])
	if err != nil {
		return fmt.Errorf("read %s: %w", args[1], err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 10*time.Minute)
	services := factory.Core().V1().Services()
	lister := services.Lister() // asking for it starts the informer
	ctx := context.Background()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	conn, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		reply, err := answer(lister, buffer[:n])
		if err != nil {
			fmt.Fprintln(os.Stderr, "question from", from, err)
			continue
		}
		if _, err := conn.WriteTo(reply, from); err != nil {
			fmt.Fprintln(os.Stderr, "answer to", from, err)
		}
	}
}

// answer makes the reply to one query.
func answer(services corelisters.ServiceLister, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired},
		Questions: []dnsmessage.Question{q},
	}
	addr, aliases, ok := resolve(services, strings.ToLower(q.Name.String()))
	if !ok {
		reply.RCode = dnsmessage.RCodeNameError
		return reply.Pack()
	}
	owner := q.Name
	for _, alias := range aliases {
		target, err := dnsmessage.NewName(alias)
		if err != nil {
			return nil, err
		}
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: owner, Type: dnsmessage.TypeCNAME, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.CNAMEResource{CNAME: target},
		})
		owner = target
	}
	if q.Type == dnsmessage.TypeA {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: owner, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		})
	}
	return reply.Pack()
}

// resolve finds the address of a service, through those of type ExternalName that
// are only another name for it.
func resolve(services corelisters.ServiceLister, name string) (addr netip.Addr, aliases []string, ok bool) {
	const most = 8 // a circle ends here
	for range most {
		s, ok := lookUp(services, name)
		if !ok {
			return netip.Addr{}, nil, false
		}
		if s.Spec.Type != corev1.ServiceTypeExternalName {
			addr, err := netip.ParseAddr(s.Spec.ClusterIP)
			return addr, aliases, err == nil && addr.Is4()
		}
		name = strings.ToLower(strings.TrimSuffix(s.Spec.ExternalName, ".")) + "."
		aliases = append(aliases, name)
	}
	return netip.Addr{}, nil, false
}

// lookUp finds a service by its full name.
func lookUp(services corelisters.ServiceLister, name string) (*corev1.Service, bool) {
	service, ok := strings.CutSuffix(name, serviceDomain)
	if !ok {
		return nil, false
	}
	first, namespace, ok := strings.Cut(service, ".")
	if !ok {
		return nil, false
	}
	s, err := services.Services(namespace).Get(first)
	return s, err == nil
}
