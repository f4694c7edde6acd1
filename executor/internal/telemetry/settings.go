package telemetry

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Settings reads the variables of OpenTelemetry and of kaniko's forks that say
// where traces go; Endpoint is "" if they are to go nowhere. Of OpenTelemetry's
// it knows OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS and _PROTOCOL, the same with
// TRACES in between, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME,
// OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER and TRACEPARENT.
func Settings(env func(string) string) (Options, error) {
	opt := Options{Parent: env("TRACEPARENT"), OmitDockerfile: strings.EqualFold(env("KANIKO_TELEMETRY_OMIT_DOCKERFILE"), "true")}
	if strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") || env("OTEL_TRACES_EXPORTER") == "none" {
		return opt, nil
	}
	var variable string
	if opt.Endpoint, variable = endpoint(env); opt.Endpoint == "" {
		return opt, nil
	}
	u, err := url.Parse(opt.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Options{}, fmt.Errorf("%s is not valid: want http://host:4318", variable)
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if env(name) == "grpc" {
			return Options{}, fmt.Errorf("%s=grpc is not supported: spans are sent over HTTP, usually to port 4318", name)
		}
	}
	opt.Header = http.Header{}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"} {
		values, err := pairs(env(name))
		if err != nil {
			return Options{}, fmt.Errorf("%s: %w", name, err)
		}
		for k, v := range values {
			opt.Header.Set(k, v)
		}
	}
	opt.Resource = map[string]string{"service.name": "kiln-executor"}
	values, err := pairs(env("OTEL_RESOURCE_ATTRIBUTES"))
	if err != nil {
		return Options{}, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	maps.Copy(opt.Resource, values)
	if name := env("OTEL_SERVICE_NAME"); name != "" {
		opt.Resource["service.name"] = name
	}
	return opt, nil
}

// endpoint is where traces go, and the variable that says so.
func endpoint(env func(string) string) (string, string) {
	if v := env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); v != "" {
		return v, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "KANIKO_TELEMETRY_ENDPOINT"} {
		v := strings.TrimSuffix(env(name), "/")
		if v == "" {
			continue
		}
		if !strings.Contains(v, "://") {
			v = "https://" + v
		}
		if !strings.HasSuffix(v, "/v1/traces") {
			v += "/v1/traces"
		}
		return v, name
	}
	return "", ""
}

// pairs reads "key=value,key2=value2", whose values are escaped as in URLs.
func pairs(s string) (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if k = strings.TrimSpace(k); !ok || k == "" {
			return nil, errors.New("want key=value,key2=value2")
		}
		plain, err := url.PathUnescape(strings.TrimSpace(v))
		if err != nil {
			return nil, fmt.Errorf("the value of %s is not escaped as in a URL", k)
		}
		out[k] = plain
	}
	return out, nil
}

func sorted(m map[string]string) []attribute {
	out := []attribute{}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] != "" {
			out = append(out, attribute{k, value{m[k]}})
		}
	}
	return out
}
