package plan

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// expose adds ports. Each word may expand to several; a range is every port
// of it.
func (st *stageState) expose(c *instructions.ExposeCommand) (effect, error) {
	var ports []string
	for _, word := range c.Ports {
		specs, err := st.b.expandWords(word, st.env)
		if err != nil {
			return effect{}, err
		}
		for _, spec := range specs {
			st.lintPort(c, spec)
			found, err := portsOf(spec)
			if err != nil {
				return effect{}, fmt.Errorf("invalid port %q: %w", spec, err)
			}
			ports = append(ports, found...)
		}
	}
	if st.config.ExposedPorts == nil {
		st.config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		st.config.ExposedPorts[p] = struct{}{}
	}
	return effect{createdBy: fmt.Sprintf("EXPOSE %v", ports)}, nil
}

// portSpec is "[ip:][host:]port[-port][/protocol]" taken apart.
type portSpec struct{ ip, host, port, proto string }

func splitPort(spec string) portSpec {
	var p portSpec
	rest := spec
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		rest, p.port = rest[:i], rest[i+1:]
		if i := strings.LastIndexByte(rest, ':'); i >= 0 {
			p.ip, p.host = rest[:i], rest[i+1:]
		} else {
			p.host = rest
		}
	} else {
		p.port = rest
	}
	p.port, p.proto, _ = strings.Cut(p.port, "/")
	return p
}

// portsOf lists the ports of a specification as "80/tcp". An address and a port
// of the host are checked and have no effect, as in BuildKit.
func portsOf(spec string) ([]string, error) {
	p := splitPort(spec)
	proto := strings.ToLower(p.proto)
	switch proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("the protocol %q is none of tcp, udp and sctp", p.proto)
	}
	if ip := strings.TrimSuffix(strings.TrimPrefix(p.ip, "["), "]"); ip != "" && net.ParseIP(ip) == nil {
		return nil, fmt.Errorf("%q is not an IP address", p.ip)
	}
	first, last, err := portRange(p.port)
	if err != nil {
		return nil, err
	}
	if p.host != "" {
		f, l, err := portRange(p.host)
		if err != nil {
			return nil, err
		}
		if l-f != last-first && last != first {
			return nil, fmt.Errorf("the ranges %s and %s differ in length", p.host, p.port)
		}
	}
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+proto)
	}
	return out, nil
}

func portRange(s string) (first, last int, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = portNumber(from); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = portNumber(to); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("the range %s ends before it begins", s)
	}
	return first, last, nil
}

func portNumber(s string) (int, error) {
	if s == "" {
		return 0, errors.New("a port number is missing")
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 65535 {
		return 0, fmt.Errorf("%q is not a number from 0 to 65535", s)
	}
	return n, nil
}

// lintPort reports what has no effect or is spelled unusually.
func (st *stageState) lintPort(c *instructions.ExposeCommand, spec string) {
	p := splitPort(spec)
	if p.proto != strings.ToLower(p.proto) {
		rule := &linter.RuleExposeProtoCasing
		st.lint.Run(rule, c.Location(), rule.Format(spec))
	}
	if p.ip != "" || p.host != "" {
		rule := &linter.RuleExposeInvalidFormat
		st.lint.Run(rule, c.Location(), rule.Format(spec))
	}
}
