# Who may do what: the whole of it, one line a right. The modules that own the
# things apply it; nothing else grants anything.

locals {
  agents = ["agent-storage", "agent-pubsub", "agent-registry", "agent-secrets", "agent-run", "agent-cluster"]

  # Rights of one executor, whoever it runs as.
  executor = {
    for name, t in local.tenants : name => concat(
      [
        { kind = "bucket", target = "contexts", role = "roles/storage.objectViewer", prefix = t.context_prefix, why = "fetch its contexts" },
        { kind = "repository", target = name, role = "roles/artifactregistry.writer", prefix = "", why = "push its images" },
        { kind = "repository", target = "hub", role = "roles/artifactregistry.reader", prefix = "", why = "pull base images" },
        { kind = "repository", target = "cache-${name}", role = "roles/artifactregistry.writer", prefix = "", why = "keep layers" },
      ],
      [for s in t.secrets : { kind = "secret", target = s, role = "roles/secretmanager.secretAccessor", prefix = "", why = "build with it" }],
    )
  }

  rights = concat(
    # The forges' door reads the secrets that sign webhooks and announces what
    # it received. So does Eventarc's, without secrets.
    flatten([for forge in var.forges : [
      { principal = "ingest", kind = "secret", target = forge, role = "roles/secretmanager.secretAccessor", prefix = "", why = "check signatures" },
    ]]),
    length(var.forges) == 0 ? [] : [
      { principal = "ingest", kind = "topic", target = "changes", role = "roles/pubsub.publisher", prefix = "", why = "announce changes" },
    ],
    var.use_eventarc ? [
      { principal = "upload", kind = "topic", target = "changes", role = "roles/pubsub.publisher", prefix = "", why = "announce uploads" },
      { principal = "push", kind = "service", target = "upload", role = "roles/run.invoker", prefix = "", why = "deliver uploads" },
    ] : [],

    # The dispatcher decides, and finishes: it claims results, checks digests,
    # moves tags and publishes.
    [
      { principal = "dispatcher", kind = "bucket", target = "ledger", role = "roles/storage.objectUser", prefix = "", why = "registers by compare-and-swap" },
      { principal = "dispatcher", kind = "topic", target = "builds", role = "roles/pubsub.publisher", prefix = "", why = "say what was built" },
    ],
    local.here ? [
      { principal = "dispatcher", kind = "secret", target = "triggers", role = "roles/secretmanager.secretAccessor", prefix = "", why = "read kiln.yaml" },
      { principal = "dispatcher", kind = "project", target = "project", role = "roles/logging.logWriter", prefix = "", why = "log" },
    ] : [],
    [for name in keys(local.names.repositories) :
      { principal = "dispatcher", kind = "repository", target = name, role = "roles/artifactregistry.writer", prefix = "", why = "check digests, move tags" }
    ],
    local.in_service ? [] : [
      { principal = "dispatcher", kind = "subscription", target = "dispatch", role = "roles/pubsub.subscriber", prefix = "", why = "pull changes" },
    ],

    # Executors as Jobs have an identity each, and create records but never
    # overwrite, read or list them.
    var.launcher == "kubernetes" ? flatten([for name, t in local.tenants : concat(
      [for r in local.executor[name] : merge(r, { principal = t.account })],
      [
        { principal = t.account, kind = "bucket", target = "ledger", role = "roles/storage.objectCreator", prefix = "builds/", why = "claim results, once" },
        { principal = t.account, kind = "project", target = "project", role = "roles/logging.logWriter", prefix = "", why = "log" },
      ],
    )]) : [],
    # As children of the dispatcher they have the dispatcher's.
    var.launcher != "kubernetes" ? flatten([for name, t in local.tenants : [
      for r in local.executor[name] : merge(r, { principal = "dispatcher" }) if !(r.kind == "repository" && r.target == name) && (local.here || r.kind == "bucket")
    ]]) : [],

    var.notify ? [
      { principal = "notify", kind = "secret", target = "notify", role = "roles/secretmanager.secretAccessor", prefix = "", why = "sign what it posts" },
      { principal = "push", kind = "service", target = "notify", role = "roles/run.invoker", prefix = "", why = "deliver finished builds" },
    ] : [],
    local.in_service ? [
      { principal = "push", kind = "service", target = "dispatcher", role = "roles/run.invoker", prefix = "", why = "deliver changes" },
    ] : [],
    length(var.forges) == 0 ? [] : [
      { principal = "everybody", kind = "service", target = "ingest", role = "roles/run.invoker", prefix = "", why = "forges have no Google identity; signatures are checked inside" },
    ],
    var.launcher == "kubernetes" ? [
      { principal = "nodes", kind = "project", target = "project", role = "roles/container.defaultNodeServiceAccount", prefix = "", why = "run nodes" },
      { principal = "nodes", kind = "repository", target = "system", role = "roles/artifactregistry.reader", prefix = "", why = "pull Kiln's own images" },
    ] : [],

    # Google's own agents.
    var.use_eventarc ? [
      { principal = "agent-storage", kind = "project", target = "project", role = "roles/pubsub.publisher", prefix = "", why = "Eventarc's topic is made later and cannot be named" },
      { principal = "push", kind = "project", target = "project", role = "roles/eventarc.eventReceiver", prefix = "", why = "receive by Eventarc" },
      ] : [
      { principal = "agent-storage", kind = "topic", target = "changes", role = "roles/pubsub.publisher", prefix = "", why = "announce uploads" },
    ],
    [{ principal = "agent-pubsub", kind = "topic", target = "dead", role = "roles/pubsub.publisher", prefix = "", why = "put dead letters" }],
    [for s in keys(local.subscriptions) :
      { principal = "agent-pubsub", kind = "subscription", target = s, role = "roles/pubsub.subscriber", prefix = "", why = "take dead letters out" }
    ],
    local.pushes ? [
      { principal = "agent-pubsub", kind = "account", target = "push", role = "roles/iam.serviceAccountTokenCreator", prefix = "", why = "sign as the push account" },
    ] : [],
    var.kms_key == null ? [] : [
      for a in local.agents : { principal = a, kind = "key", target = "key", role = "roles/cloudkms.cryptoKeyEncrypterDecrypter", prefix = "", why = "encrypt" } if a != "agent-cluster" || var.launcher == "kubernetes"
    ],

    # People and pipelines that upload.
    flatten([for name, t in local.tenants : [
      for m in t.pushers : { principal = m, kind = "bucket", target = "contexts", role = "roles/storage.objectUser", prefix = t.context_prefix, why = "upload contexts" }
    ]]),
  )

  # Keys are stable: they name the right, not its place in the list.
  grants = {
    for r in local.rights : join(" ", compact([r.principal, trimprefix(r.role, "roles/"), r.kind, r.target, r.prefix])) => r
  }
}
