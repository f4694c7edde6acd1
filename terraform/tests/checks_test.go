package terraform_test

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Google's agents in the project of the stand-in.
const (
	pubsubAgent = "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
	gcsAgent    = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
)

// A check looks for one kind of mistake and says what it found.
type check func(world) []string

// checks are those that every example must pass.
func checks() map[string]check {
	return map[string]check{
		"least privilege": leastPrivilege,
		"executors":       executors,
		"secrets":         secretValues,
		"dead letters":    deadLetters,
		"pushes":          pushes,
		"uploads":         uploads,
		"buckets":         buckets,
		"repositories":    repositories,
		"identities":      identities,
		"alerts":          alerts,
		"manifests":       manifests,
		"encryption":      encryption,
	}
}

// problems collects what a check finds.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// leastPrivilege finds roles that nobody should have, and doors that are open.
func leastPrivilege(w world) []string {
	var p problems
	if len(w.grants()) < 5 {
		p.add("there are %d grants only", len(w.grants()))
	}
	seen := map[grant]bool{}
	for _, g := range w.grants() {
		switch {
		case slices.Contains([]string{"roles/owner", "roles/editor", "roles/viewer", "roles/iam.serviceAccountAdmin", "roles/iam.serviceAccountUser"}, g.role):
			p.add("%s: such a role is for nobody", g)
		case strings.HasSuffix(g.role, ".admin") || strings.HasSuffix(g.role, "Admin"):
			p.add("%s: nothing of ours administers", g)
		case g.member == "allAuthenticatedUsers":
			p.add("%s: that is everybody", g)
		case g.member == "allUsers" && (g.kind != "cloud_run_v2_service" || !strings.HasSuffix(g.target, "-ingest") || g.role != "roles/run.invoker"):
			p.add("%s: only the forges' door is public", g)
		case g.kind == "project" && !slices.Contains([]string{"roles/logging.logWriter", "roles/container.defaultNodeServiceAccount", "roles/eventarc.eventReceiver", "roles/pubsub.publisher"}, g.role):
			p.add("%s: not on the whole project", g)
		case g.kind == "project" && g.role == "roles/pubsub.publisher" && g.member != gcsAgent:
			p.add("%s: not on the whole project", g)
		case seen[g]:
			p.add("%s: granted twice", g)
		}
		seen[g] = true
	}
	for _, th := range w.things {
		if strings.HasSuffix(th.Type, "_iam_policy") || strings.HasSuffix(th.Type, "_iam_binding") || th.Type == "google_service_account_key" {
			p.add("%s: takes rights from others, or is a key", th.Address)
		}
	}
	return p
}

// executors finds builds that can do more than build.
func executors(w world) []string {
	var p problems
	tenants := 0
	for _, account := range w.of("service_account") {
		id := account.text("account_id")
		if !strings.Contains(id, "-x-") {
			continue
		}
		tenants++
		install, tenant, _ := strings.Cut(id, "-x-")
		ledger := false
		for _, g := range w.grants() {
			if g.member != account.text("member") {
				continue
			}
			switch what := g.kind + " " + g.role; {
			case g.kind == "storage_bucket" && strings.HasSuffix(g.target, "-ledger"):
				ledger = true
				if g.role != "roles/storage.objectCreator" || g.prefix != "builds/" {
					p.add("%s: an executor creates records below builds/ and does nothing else to the ledger", g)
				}
			case what == "storage_bucket roles/storage.objectViewer":
				if g.prefix == "" && len(w.of("service_account")) > 0 && w.tenants() > 1 {
					p.add("%s: one of several tenants reads the whole bucket", g)
				}
			case what == "artifact_registry_repository roles/artifactregistry.writer":
				if g.target != install+"-"+tenant && g.target != install+"-cache-"+tenant {
					p.add("%s: writes to another's repository", g)
				}
			case what == "artifact_registry_repository roles/artifactregistry.reader", what == "project roles/logging.logWriter", what == "secret_manager_secret roles/secretmanager.secretAccessor":
			default:
				p.add("%s: not a right of an executor", g)
			}
		}
		if !ledger {
			p.add("%s cannot claim its result", id)
		}
	}
	if len(w.of("container_cluster")) > 0 && tenants == 0 {
		p.add("there is a cluster and no executor has an identity")
	}
	return p
}

// tenants counts the identities of executors.
func (w world) tenants() int {
	n := 0
	for _, account := range w.of("service_account") {
		if strings.Contains(account.text("account_id"), "-x-") {
			n++
		}
	}
	return n
}

// secretValues finds values of secrets in the state.
func secretValues(w world) []string {
	var p problems
	for _, th := range w.things {
		if strings.Contains(th.Type, "secret_version") {
			p.add("%s: the value of a secret is in the state", th.Address)
		}
		for _, c := range th.list("template.0.containers") {
			container := thing{Values: c.(map[string]any)}
			for i := range container.list("env") {
				name, value := container.text(fmt.Sprintf("env.%d.name", i)), container.text(fmt.Sprintf("env.%d.value", i))
				if value != "" && (strings.Contains(name, "SECRET") || strings.Contains(name, "TOKEN") || strings.Contains(name, "PASSWORD")) && !strings.HasSuffix(name, "_FILE") {
					p.add("%s: %s has its value in the state", th.Address, name)
				}
			}
		}
	}
	for _, s := range w.of("secret_manager_secret") {
		readers := 0
		for _, g := range w.grants() {
			if g.kind == "secret_manager_secret" && g.target == s.text("secret_id") {
				readers++
				if g.role != "roles/secretmanager.secretAccessor" {
					p.add("%s: reading is enough", g)
				}
			}
		}
		if readers == 0 {
			p.add("nobody reads the secret %s", s.text("secret_id"))
		}
	}
	return p
}

// deadLetters finds subscriptions that lose messages.
func deadLetters(w world) []string {
	var p problems
	var dead string
	for _, topic := range w.of("pubsub_topic") {
		if strings.HasSuffix(topic.text("name"), "-dead") {
			dead = topic.text("id")
		}
	}
	if dead == "" {
		return []string{"there is no topic for dead letters"}
	}
	name := dead[strings.LastIndexByte(dead, '/')+1:]
	if !w.has(grant{"pubsub_topic", name, "roles/pubsub.publisher", pubsubAgent, ""}) {
		p.add("Pub/Sub may not publish to %s", name)
	}
	kept := false
	for _, s := range w.of("pubsub_subscription") {
		sub := s.text("name")
		if got := s.text("message_retention_duration"); got != "604800s" {
			p.add("%s keeps messages for %q, not for seven days", sub, got)
		}
		if s.at("expiration_policy.0.ttl") != "" {
			p.add("%s expires when nobody asks", sub)
		}
		if s.text("topic") == dead {
			kept = true
			continue
		}
		if got := s.text("dead_letter_policy.0.dead_letter_topic"); got != dead {
			p.add("%s puts dead letters in %q", sub, got)
		}
		if n, ok := s.at("dead_letter_policy.0.max_delivery_attempts").(float64); !ok || n < 5 || n > 100 {
			p.add("%s gives up after %v attempts", sub, s.at("dead_letter_policy.0.max_delivery_attempts"))
		}
		if s.text("retry_policy.0.minimum_backoff") == "" {
			p.add("%s tries again without a pause", sub)
		}
		if !w.has(grant{"pubsub_subscription", sub, "roles/pubsub.subscriber", pubsubAgent, ""}) {
			p.add("Pub/Sub may not take dead letters out of %s", sub)
		}
	}
	if !kept {
		p.add("no subscription keeps dead letters")
	}
	return p
}

// pushes finds pushes that nobody can check, or that are refused.
func pushes(w world) []string {
	var p problems
	for _, s := range w.of("pubsub_subscription") {
		endpoint := s.text("push_config.0.push_endpoint")
		if endpoint == "" {
			continue
		}
		email, audience := s.text("push_config.0.oidc_token.0.service_account_email"), s.text("push_config.0.oidc_token.0.audience")
		if email == "" || audience == "" {
			p.add("%s pushes without a token", s.text("name"))
			continue
		}
		account, _, _ := strings.Cut(email, ".iam.")
		if !w.has(grant{"service_account", email, "roles/iam.serviceAccountTokenCreator", pubsubAgent, ""}) {
			p.add("Pub/Sub may not sign as %s", account)
		}
		for _, service := range w.of("cloud_run_v2_service") {
			if !strings.HasPrefix(endpoint, service.text("uri")) {
				continue
			}
			if !w.has(grant{"cloud_run_v2_service", service.text("name"), "roles/run.invoker", "serviceAccount:" + email, ""}) {
				p.add("%s may not call %s", account, service.text("name"))
			}
			if audience != service.text("uri") && !slices.Contains(service.list("custom_audiences"), any(audience)) {
				p.add("tokens of %s are for %s, which %s is not", s.text("name"), audience, service.text("name"))
			}
		}
	}
	return p
}

// uploads finds uploads that are not announced, and loops.
func uploads(w world) []string {
	var p problems
	eventarc := len(w.of("eventarc_trigger")) > 0
	notified := w.of("storage_notification")
	if eventarc == (len(notified) == 1) || len(notified) > 1 {
		p.add("uploads are announced %d times by the bucket, and by Eventarc: %v", len(notified), eventarc)
	}
	for _, n := range notified {
		topic := n.text("topic")
		name := topic[strings.LastIndexByte(topic, '/')+1:]
		if !strings.HasSuffix(n.text("bucket"), "-contexts") || !strings.HasSuffix(name, "-changes") {
			p.add("%s announces on %s", n.text("bucket"), name)
		}
		if types := n.list("event_types"); len(types) != 1 || types[0] != "OBJECT_FINALIZE" {
			p.add("%s announces %v", n.text("bucket"), types)
		}
		if !w.has(grant{"pubsub_topic", name, "roles/pubsub.publisher", gcsAgent, ""}) {
			p.add("Cloud Storage may not publish to %s", name)
		}
		read := false
		for _, s := range w.of("pubsub_subscription") {
			read = read || s.text("topic") == topic && (s.text("push_config.0.push_endpoint") != "" || w.pulled(s.text("name")))
		}
		if !read {
			p.add("nobody reads %s", name)
		}
	}
	return p
}

// pulled reports whether somebody may pull a subscription.
func (w world) pulled(name string) bool {
	return slices.ContainsFunc(w.grants(), func(g grant) bool {
		return g.kind == "pubsub_subscription" && g.target == name && g.role == "roles/pubsub.subscriber" && g.member != pubsubAgent
	})
}

// buckets finds buckets that are open, forget too early or never.
func buckets(w world) []string {
	var p problems
	if len(w.of("storage_bucket")) != 2 {
		p.add("there are %d buckets", len(w.of("storage_bucket")))
	}
	for _, b := range w.of("storage_bucket") {
		name := b.text("name")
		if b.at("uniform_bucket_level_access") != true || b.text("public_access_prevention") != "enforced" {
			p.add("%s can be made public", name)
		}
		if b.at("soft_delete_policy.0.retention_duration_seconds") != float64(604800) {
			p.add("what is deleted from %s is gone too early", name)
		}
		versioned := b.at("versioning.0.enabled") == true
		if strings.HasSuffix(name, "-contexts") != versioned {
			p.add("%s: versioning is %v", name, versioned)
		}
		if len(b.list("retention_policy")) > 0 {
			p.add("%s: a retention policy forbids to swap registers", name)
		}
		p = append(p, lifecycle(b)...)
	}
	return p
}

// lifecycle finds records that are deleted although they decide what is built.
func lifecycle(b thing) []string {
	var p problems
	deletes := false
	for _, r := range b.list("lifecycle_rule") {
		rule := thing{Values: r.(map[string]any)}
		if rule.text("action.0.type") != "Delete" {
			continue
		}
		deletes = true
		prefixes := rule.list("condition.0.matches_prefix")
		if !strings.HasSuffix(b.text("name"), "-ledger") {
			continue
		}
		if len(prefixes) == 0 {
			p.add("%s deletes everything", b.text("name"))
		}
		for _, kept := range []string{"refs/", "objs/", "tags/", "open/"} {
			if slices.Contains(prefixes, any(kept)) {
				p.add("%s deletes %s, which decides what is new", b.text("name"), kept)
			}
		}
	}
	if !deletes {
		p.add("%s grows for ever", b.text("name"))
	}
	return p
}

// repositories finds repositories that grow for ever, or lose images.
func repositories(w world) []string {
	var p problems
	for _, r := range w.of("artifact_registry_repository") {
		id := r.text("repository_id")
		var kinds []string
		for i := range r.list("cleanup_policies") {
			kinds = append(kinds, r.text(fmt.Sprintf("cleanup_policies.%d.id", i)))
		}
		slices.Sort(kinds)
		want := []string{"delete-untagged", "keep-newest"}
		switch {
		case strings.HasSuffix(id, "-system"):
			want = nil
		case strings.HasSuffix(id, "-hub"), strings.Contains(id, "-cache-"):
			want = []string{"delete-old"}
		}
		if !slices.Equal(kinds, want) {
			p.add("%s is cleaned up by %v, not by %v", id, kinds, want)
		}
	}
	return p
}

// identities finds Kubernetes accounts that act as nobody, or as another.
func identities(w world) []string {
	var p problems
	if len(w.of("container_cluster")) == 0 {
		return nil
	}
	for _, account := range w.of("service_account") {
		id := account.text("account_id")
		install, tenant, executor := strings.Cut(id, "-x-")
		want := "executor"
		namespace := install + "-" + tenant
		if !executor {
			if install, executor = strings.CutSuffix(id, "-dispatcher"); !executor {
				continue
			}
			want, namespace = "dispatcher", install+"-control"
		}
		var as []string
		for _, g := range w.grants() {
			if g.kind == "service_account" && g.target == account.text("email") && g.role == "roles/iam.workloadIdentityUser" {
				as = append(as, g.member)
			}
		}
		if member := fmt.Sprintf("serviceAccount:acme-builds.svc.id.goog[%s/%s]", namespace, want); !slices.Equal(as, []string{member}) {
			p.add("as %s acts %v, not %s", id, as, member)
		}
	}
	for _, c := range w.of("container_cluster") {
		if c.text("workload_identity_config.0.workload_pool") != "acme-builds.svc.id.goog" || c.at("enable_autopilot") != true {
			p.add("the cluster has no workload identity")
		}
		if c.at("private_cluster_config.0.enable_private_nodes") != true {
			p.add("the nodes have addresses of their own")
		}
		if c.text("cluster_autoscaling.0.auto_provisioning_defaults.0.service_account") == "" {
			p.add("nodes run as the project's default account")
		}
	}
	return p
}

// alerts finds what nobody would be told of.
func alerts(w world) []string {
	var p problems
	policies := w.of("monitoring_alert_policy")
	if len(policies) == 0 {
		if len(w.of("monitoring_dashboard")) > 0 {
			p.add("there is a dashboard and no alert")
		}
		return p
	}
	all := ""
	for _, a := range policies {
		for i := range a.list("conditions") {
			all += a.text(fmt.Sprintf("conditions.%d.condition_threshold.0.filter", i)) + "\n"
		}
	}
	for _, s := range w.of("pubsub_subscription") {
		metric := "oldest_unacked_message_age"
		if strings.HasSuffix(s.text("name"), "-dead") {
			metric = "num_undelivered_messages"
		}
		if !strings.Contains(all, fmt.Sprintf("subscription_id = %q AND metric.type = \"pubsub.googleapis.com/subscription/%s\"", s.text("name"), metric)) {
			p.add("nobody is told that %s waits", s.text("name"))
		}
	}
	return p
}

// manifests finds manifests that kubectl would not take, and Kubernetes accounts
// that nobody's identity is bound to.
func manifests(w world) []string {
	var p problems
	text, _ := w.outputs["manifests"].(string)
	if len(w.of("container_cluster")) == 0 {
		if text != "" {
			p.add("there are manifests and no cluster")
		}
		return p
	}
	accounts, kinds := 0, map[string]int{}
	for document := range strings.SplitSeq(text, "---\n") {
		var m struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
			Metadata   struct {
				Name, Namespace     string
				Labels, Annotations map[string]string
			} `yaml:"metadata"`
		}
		if err := yaml.Unmarshal([]byte(document), &m); err != nil || m.APIVersion == "" || m.Kind == "" || m.Metadata.Name == "" {
			p.add("not a manifest: %v\n%s", err, document)
			continue
		}
		kinds[m.Kind]++
		if m.Kind == "Namespace" && m.Metadata.Labels["pod-security.kubernetes.io/enforce"] == "" {
			p.add("namespace %s lets pods do everything", m.Metadata.Name)
		}
		if m.Kind != "ServiceAccount" {
			continue
		}
		accounts++
		email := m.Metadata.Annotations["iam.gke.io/gcp-service-account"]
		if !w.has(grant{"service_account", email, "roles/iam.workloadIdentityUser", fmt.Sprintf("serviceAccount:acme-builds.svc.id.goog[%s/%s]", m.Metadata.Namespace, m.Metadata.Name), ""}) {
			p.add("%s/%s may not act as %q", m.Metadata.Namespace, m.Metadata.Name, email)
		}
	}
	if want := w.tenants(); accounts != want+1 || kinds["Namespace"] != want+1 || kinds["ResourceQuota"] != want || kinds["NetworkPolicy"] != want || kinds["RoleBinding"] != want {
		p.add("for %d tenants there are %v", want, kinds)
	}
	return p
}

// encryption finds what is not encrypted with the key, where there is one: then
// Google's agents have rights on it.
func encryption(w world) []string {
	var p problems
	keyed := slices.ContainsFunc(w.grants(), func(g grant) bool { return g.kind == "kms_crypto_key" })
	for kind, path := range map[string]string{
		"storage_bucket":               "encryption.0.default_kms_key_name",
		"pubsub_topic":                 "kms_key_name",
		"artifact_registry_repository": "kms_key_name",
		"secret_manager_secret":        "replication.0.user_managed.0.replicas.0.customer_managed_encryption.0.kms_key_name",
		"cloud_run_v2_service":         "template.0.encryption_key",
		"container_cluster":            "database_encryption.0.key_name",
	} {
		for _, th := range w.of(kind) {
			if (th.text(path) != "") != keyed {
				p.add("%s: there is a key: %v; it is encrypted with %q", th.Address, keyed, th.text(path))
			}
		}
	}
	return p
}
