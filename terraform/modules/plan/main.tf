# Everything about an installation that can be decided without asking Google:
# names, who may do what, what is refused. It needs no provider.

locals {
  location = coalesce(var.bucket_location, var.region)

  tenants = {
    for name, t in var.tenants : name => {
      context_prefix = t.context_prefix == null ? "${name}/" : t.context_prefix
      secrets        = t.secrets
      pushers        = t.pushers
      account        = "executor-${name}"
      repository     = "${var.install}-${name}"
      namespace      = "${var.install}-${name}"
    }
  }

  # Where executors are Jobs the dispatcher is in the cluster with them, and
  # pulls; else it is a service that Pub/Sub pushes to.
  in_service = var.launcher == "process"
  here       = var.launcher != "elsewhere"
  pushes     = local.in_service || var.notify || var.use_eventarc || anytrue(values(var.subscribers))

  # Principals to the ids of their service accounts.
  accounts = merge(
    local.here ? { dispatcher = "${var.install}-dispatcher" } : {},
    length(var.forges) > 0 ? { ingest = "${var.install}-ingest" } : {},
    var.use_eventarc ? { upload = "${var.install}-upload" } : {},
    var.notify ? { notify = "${var.install}-notify" } : {},
    local.pushes ? { push = "${var.install}-push" } : {},
    var.launcher == "kubernetes" ? { nodes = "${var.install}-nodes" } : {},
  )
  executors = var.launcher == "kubernetes" ? { for name, t in local.tenants : t.account => "${var.install}-x-${name}" } : {}

  # Cloud Run services.
  services = merge(
    local.in_service ? { dispatcher = "${var.install}-dispatcher" } : {},
    length(var.forges) > 0 ? { ingest = "${var.install}-ingest" } : {},
    var.use_eventarc ? { upload = "${var.install}-upload" } : {},
    var.notify ? { notify = "${var.install}-notify" } : {},
  )

  secrets = !local.here ? {} : merge(
    { triggers = "${var.install}-triggers" },
    { for forge in var.forges : forge => "${var.install}-${forge}" },
    var.notify ? { notify = "${var.install}-notify" } : {},
    merge([for t in local.tenants : { for s in t.secrets : s => "${var.install}-${s}" }]...),
  )

  subscriptions = merge(
    { dispatch = "${var.install}-dispatch" },
    var.notify ? { notify = "${var.install}-notify" } : {},
    { for s in keys(var.subscribers) : s => "${var.install}-to-${s}" },
  )

  names = {
    contexts      = coalesce(var.contexts_bucket, "${var.project_id}-${var.install}-contexts")
    ledger        = coalesce(var.ledger_bucket, "${var.project_id}-${var.install}-ledger")
    changes       = "${var.install}-changes"
    builds        = "${var.install}-builds"
    dead          = "${var.install}-dead"
    subscriptions = local.subscriptions
    accounts      = merge(local.accounts, local.executors)
    services      = local.services
    secrets       = local.secrets
    repositories  = { for name, t in local.tenants : name => t.repository if local.here }
    system        = "${var.install}-system"
    hub           = "${var.install}-hub"
    caches        = { for name, t in local.tenants : name => "${var.install}-cache-${name}" if local.here }
    cluster       = var.install
    network       = var.install
    namespaces    = { for name, t in local.tenants : name => t.namespace }
    control       = "${var.install}-control" # the dispatcher's namespace
    eventarc      = "${var.install}-uploads"
  }
}

# What is too long or of the wrong form, name by name.
locals {
  forms = concat(
    [for n in [local.names.contexts, local.names.ledger] : { what = "bucket", name = n, form = "^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$" }],
    [for n in local.names.accounts : { what = "service account", name = n, form = "^[a-z][a-z0-9-]{4,28}[a-z0-9]$" }],
    [for n in local.names.services : { what = "service", name = n, form = "^[a-z]([a-z0-9-]{0,47}[a-z0-9])?$" }],
    [for n in concat(values(local.names.repositories), values(local.names.caches)) : { what = "repository", name = n, form = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$" }],
    [for n in values(local.names.namespaces) : { what = "namespace", name = n, form = "^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$" }],
    [for n in values(local.names.secrets) : { what = "secret", name = n, form = "^[A-Za-z0-9_-]{1,255}$" }],
    [for n in values(local.subscriptions) : { what = "subscription", name = n, form = "^[a-z][a-z0-9-]{2,254}$" }],
  )
  misnamed = [for f in local.forms : "${f.what} ${f.name}" if !can(regex(f.form, f.name))]
  reserved = [for n in [local.names.contexts, local.names.ledger] : n if startswith(n, "goog") || strcontains(n, "google")]
}
