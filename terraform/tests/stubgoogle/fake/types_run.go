package fake

import (
	"errors"
	"fmt"
	"strings"
)

const (
	run      = "run.googleapis.com"
	runAgent = "service-" + projectNumber + "@serverless-robot-prod.iam.gserviceaccount.com"
)

// runTypes are services of Cloud Run and what calls them.
func runTypes() []spec {
	return []spec{
		{
			name: "google_cloud_run_v2_service", id: "projects/{project}/locations/{location}/services/{name}", api: run,
			set:  map[string]string{"uri": "https://{name}-" + projectNumber + ".{location}.run.app"},
			body: service(), check: checkService, needs: serviceNeeds,
		},
		{
			name: "google_cloud_run_v2_service_iam_member", id: "{project}/{location}/{name}/{role}/{member}", api: run,
			body: member(req("name", text), may("location", text), project()),
		},
		{
			name: "google_eventarc_trigger", id: "projects/{project}/locations/{location}/triggers/{name}", api: "eventarc.googleapis.com",
			body: of(
				req("name", text), req("location", text), project(), ownLabels(), opt("service_account", text), opt("channel", text), may("event_data_content_type", text),
				out("uid", text), out("etag", text), out("create_time", text), out("update_time", text),
				block{name: "matching_criteria", set: true, min: 1, body: of(req("attribute", text), req("value", text), opt("operator", text))},
				once("destination",
					opt("workflow", text), out("cloud_function", text),
					maybe("cloud_run_service", req("service", text), opt("region", text), opt("path", text)),
					maybe("gke", req("cluster", text), req("location", text), req("namespace", text), req("service", text), opt("path", text)),
					maybe("http_endpoint", req("uri", text)),
				),
				maybe("transport", maybe("pubsub", opt("topic", text), out("subscription", text))),
			),
			needs: func(v values) []need {
				return []need{{
					"google_project_iam_member " + v.text("project") + "/roles/pubsub.publisher/serviceAccount:" + gcsAgent,
					"Cloud Storage may not publish to Eventarc's topics yet",
				}}
			},
		},
	}
}

func probe(name string, maximum int64) block {
	return maybe(name,
		opt("initial_delay_seconds", number).in(0, maximum), opt("timeout_seconds", number).in(1, 3600), opt("period_seconds", number).in(1, maximum), opt("failure_threshold", number),
		maybe("http_get", opt("path", text), may("port", number), many("http_headers", req("name", text), opt("value", text))),
		maybe("tcp_socket", may("port", number)),
		maybe("grpc", may("port", number), opt("service", text)),
	)
}

func service() body {
	return of(
		req("name", text).like(`^[a-z]([a-z0-9-]{0,47}[a-z0-9])?$`), req("location", text), project(), opt("description", text).like(`^.{0,512}$`),
		ownLabels(), opt("annotations", labels), opt("client", text), opt("client_version", text), opt("custom_audiences", texts),
		may("ingress", text).one("INGRESS_TRAFFIC_ALL", "INGRESS_TRAFFIC_INTERNAL_ONLY", "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"),
		may("launch_stage", text).one("UNIMPLEMENTED", "PRELAUNCH", "EARLY_ACCESS", "ALPHA", "BETA", "GA", "DEPRECATED"),
		opt("deletion_protection", flag).or(true), opt("invoker_iam_disabled", flag),
		out("uri", text), out("uid", text), out("etag", text), out("generation", text), out("latest_ready_revision", text), out("create_time", text), out("update_time", text),
		maybe("binary_authorization", opt("use_default", flag), opt("policy", text), opt("breakglass_justification", text)),
		maybe("scaling", opt("min_instance_count", number)),
		many("traffic", may("percent", number), opt("revision", text), opt("tag", text), opt("type", text).one("TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION")),
		once("template",
			opt("annotations", labels), ownLabels(), opt("encryption_key", text), opt("revision", text), opt("session_affinity", flag),
			opt("execution_environment", text).one("EXECUTION_ENVIRONMENT_GEN1", "EXECUTION_ENVIRONMENT_GEN2"),
			may("max_instance_request_concurrency", number), may("service_account", text), may("timeout", text).like(duration),
			maybe("scaling", opt("min_instance_count", number), may("max_instance_count", number)),
			maybe("vpc_access", opt("connector", text), may("egress", text).one("ALL_TRAFFIC", "PRIVATE_RANGES_ONLY"), many("network_interfaces", may("network", text), may("subnetwork", text), opt("tags", texts))),
			many("volumes",
				req("name", text),
				maybe("secret", req("secret", text), opt("default_mode", number), many("items", req("path", text), opt("version", text), opt("mode", number))),
				maybe("empty_dir", opt("medium", text).one("MEMORY"), opt("size_limit", text)),
				maybe("gcs", req("bucket", text), opt("read_only", flag)),
				maybe("nfs", req("server", text), req("path", text), opt("read_only", flag)),
			),
			many("containers",
				req("image", text), opt("name", text), opt("args", texts), opt("command", texts), opt("working_dir", text), opt("depends_on", texts),
				many("env", req("name", text), opt("value", text), maybe("value_source", maybe("secret_key_ref", req("secret", text), opt("version", text)))),
				maybe("ports", opt("container_port", number), may("name", text).one("http1", "h2c")),
				maybe("resources", may("limits", labels), opt("cpu_idle", flag), opt("startup_cpu_boost", flag)),
				many("volume_mounts", req("name", text), req("mount_path", text)),
				probe("startup_probe", 240), probe("liveness_probe", 3600),
			),
		),
	)
}

// checkService refuses mounts of volumes that are not there, and reserved names.
func checkService(v values) error {
	volumes := map[string]bool{}
	for i := range v.list("template.0.volumes") {
		volumes[v.text(fmt.Sprintf("template.0.volumes.%d.name", i))] = true
	}
	if len(v.list("template.0.containers")) == 0 {
		return errors.New("template: there is no container")
	}
	for c := range v.list("template.0.containers") {
		p := fmt.Sprintf("template.0.containers.%d.", c)
		for m := range v.list(p + "volume_mounts") {
			if name := v.text(fmt.Sprintf("%svolume_mounts.%d.name", p, m)); name != "" && !volumes[name] {
				return fmt.Errorf("volume_mounts: there is no volume %q", name)
			}
		}
		for e := range v.list(p + "env") {
			switch name := v.text(fmt.Sprintf("%senv.%d.name", p, e)); name {
			case "PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION":
				return fmt.Errorf("env: Cloud Run sets %s itself", name)
			}
		}
	}
	return nil
}

// serviceNeeds are the secrets that a service mounts, with the role to read
// them, and the key.
func serviceNeeds(v values) []need {
	var needs []need
	member := "serviceAccount:" + v.text("template.0.service_account")
	secret := func(id string) {
		if id == "" {
			return
		}
		if !strings.HasPrefix(id, "projects/") {
			id = v.expand("projects/{project}/secrets/" + id)
		}
		needs = append(needs,
			need{"google_secret_manager_secret " + id, "the secret does not exist yet"},
			need{"google_secret_manager_secret_iam_member " + id + "/roles/secretmanager.secretAccessor/" + member, "the service may not read the secret yet"},
		)
	}
	for i := range v.list("template.0.volumes") {
		secret(v.text(fmt.Sprintf("template.0.volumes.%d.secret.0.secret", i)))
	}
	for c := range v.list("template.0.containers") {
		for e := range v.list(fmt.Sprintf("template.0.containers.%d.env", c)) {
			secret(v.text(fmt.Sprintf("template.0.containers.%d.env.%d.value_source.0.secret_key_ref.0.secret", c, e)))
		}
	}
	if key := v.text("template.0.encryption_key"); key != "" {
		needs = append(needs, keyGrant(key, runAgent))
	}
	return needs
}
