package fake

import "errors"

const (
	compute      = "compute.googleapis.com"
	container    = "container.googleapis.com"
	clusterAgent = "service-" + projectNumber + "@container-engine-robot.iam.gserviceaccount.com"
	computeName  = `^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`
	cidr         = `^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$`
)

// networkTypes are networks and their way out.
func networkTypes() []spec {
	return []spec{
		{
			name: "google_compute_network", id: "projects/{project}/global/networks/{name}", api: compute,
			set: map[string]string{"self_link": "https://www.googleapis.com/compute/v1/projects/{project}/global/networks/{name}"},
			body: of(
				req("name", text).like(computeName), project(), opt("description", text), opt("auto_create_subnetworks", flag).or(true),
				may("routing_mode", text).one("REGIONAL", "GLOBAL"), may("mtu", number), opt("delete_default_routes_on_create", flag),
				out("self_link", text), out("gateway_ipv4", text),
			),
		},
		{
			name: "google_compute_subnetwork", id: "projects/{project}/regions/{region}/subnetworks/{name}", api: compute,
			set: map[string]string{"self_link": "https://www.googleapis.com/compute/v1/projects/{project}/regions/{region}/subnetworks/{name}"},
			body: of(
				req("name", text).like(computeName), req("network", text), may("ip_cidr_range", text).like(cidr), may("region", text), project(),
				opt("description", text), may("private_ip_google_access", flag), may("purpose", text), opt("role", text), may("stack_type", text),
				out("self_link", text), out("gateway_address", text),
				many("secondary_ip_range", req("range_name", text).like(computeName), may("ip_cidr_range", text).like(cidr)),
				maybe("log_config", opt("aggregation_interval", text), opt("flow_sampling", float), opt("metadata", text)),
			),
		},
		{
			name: "google_compute_router", id: "projects/{project}/regions/{region}/routers/{name}", api: compute,
			body: of(req("name", text).like(computeName), req("network", text), may("region", text), project(), opt("description", text), out("self_link", text)),
		},
		{
			name: "google_compute_router_nat", id: "{project}/{region}/{router}/{name}", api: compute,
			body: of(
				req("name", text).like(computeName), req("router", text), may("region", text), project(),
				may("nat_ip_allocate_option", text).one("MANUAL_ONLY", "AUTO_ONLY"),
				req("source_subnetwork_ip_ranges_to_nat", text).one("ALL_SUBNETWORKS_ALL_IP_RANGES", "ALL_SUBNETWORKS_ALL_PRIMARY_IP_RANGES", "LIST_OF_SUBNETWORKS"),
				opt("min_ports_per_vm", number), opt("enable_dynamic_port_allocation", flag),
				maybe("log_config", req("enable", flag), req("filter", text).one("ERRORS_ONLY", "TRANSLATIONS_ONLY", "ALL")),
			),
		},
	}
}

// clusterTypes are clusters.
func clusterTypes() []spec {
	return []spec{{
		name: "google_container_cluster", id: "projects/{project}/locations/{location}/clusters/{name}", api: container,
		set: map[string]string{"endpoint": "192.0.2.1", "self_link": "https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{name}"},
		body: of(
			req("name", text).like(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`), may("location", text), project(), opt("description", text),
			opt("enable_autopilot", flag), opt("deletion_protection", flag).or(true), opt("network", text), may("subnetwork", text),
			opt("resource_labels", labels), opt("min_master_version", text), may("datapath_provider", text), opt("allow_net_admin", flag),
			opt("initial_node_count", number), opt("remove_default_node_pool", flag), may("networking_mode", text).one("VPC_NATIVE", "ROUTES"),
			out("endpoint", text), out("self_link", text), out("master_version", text), out("services_ipv4_cidr", text),
			maybe("release_channel", req("channel", text).one("UNSPECIFIED", "RAPID", "REGULAR", "STABLE", "EXTENDED")),
			maybe("workload_identity_config", opt("workload_pool", text)),
			maybe("ip_allocation_policy", may("cluster_secondary_range_name", text), may("services_secondary_range_name", text), may("cluster_ipv4_cidr_block", text), may("services_ipv4_cidr_block", text), may("stack_type", text)),
			maybe("private_cluster_config", opt("enable_private_nodes", flag), may("enable_private_endpoint", flag), may("master_ipv4_cidr_block", text), maybe("master_global_access_config", req("enabled", flag))),
			maybe("control_plane_endpoints_config", maybe("dns_endpoint_config", may("endpoint", text), opt("allow_external_traffic", flag)), maybe("ip_endpoints_config", opt("enabled", flag))),
			maybe("master_authorized_networks_config", may("gcp_public_cidrs_access_enabled", flag), bagOf("cidr_blocks", req("cidr_block", text).like(cidr), opt("display_name", text))),
			maybe("database_encryption", req("state", text).one("ENCRYPTED", "DECRYPTED"), opt("key_name", text)),
			maybe("binary_authorization", opt("evaluation_mode", text).one("DISABLED", "PROJECT_SINGLETON_POLICY_ENFORCE")),
			maybe("secret_manager_config", req("enabled", flag)),
			maybe("cluster_autoscaling", may("enabled", flag), maybe("auto_provisioning_defaults", opt("service_account", text), may("oauth_scopes", texts), opt("boot_disk_kms_key", text))),
			maybe("maintenance_policy", maybe("recurring_window", req("start_time", text), req("end_time", text), req("recurrence", text)), maybe("daily_maintenance_window", req("start_time", text), out("duration", text))),
			maybe("security_posture_config", may("mode", text), may("vulnerability_mode", text)),
		),
		check: func(v values) error {
			if v.at("enable_autopilot") == true && (v.at("initial_node_count") != nil || v.at("remove_default_node_pool") != nil) {
				return errors.New("enable_autopilot excludes initial_node_count and remove_default_node_pool")
			}
			return nil
		},
		needs: func(v values) []need {
			if key := v.text("database_encryption.0.key_name"); key != "" {
				return []need{keyGrant(key, clusterAgent)}
			}
			return nil
		},
	}}
}
