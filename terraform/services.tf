# What runs on Cloud Run, with the flags and variables of the programs of
# functions/. terraform/tests checks them against those programs.

locals {
  # For whom tokens are. It is a name of ours and not the service's address,
  # which the service would have to know before it is made.
  audience = "https://dispatcher.${var.install}.${var.project_id}"

  services = merge(
    contains(keys(module.plan.names.services), "dispatcher") ? { dispatcher = local.dispatcher } : {},
    contains(keys(module.plan.names.services), "ingest") ? { ingest = local.ingest } : {},
    contains(keys(module.plan.names.services), "notify") ? { notify = local.notifier } : {},
  )

  dispatcher = {
    name  = lookup(module.plan.names.services, "dispatcher", "")
    image = coalesce(var.images.dispatcher, "missing/images.dispatcher:set-it")
    email = trimprefix(module.identity.members["dispatcher"], "serviceAccount:")
    args = concat([
      "--listen=0.0.0.0:8080",
      "--data=/data",
      "--ledger=gs://${module.storage.ledger}",
      "--install=${var.install}",
      "--triggers=/etc/kiln/kiln.yaml",
      "--log-format=json",
      "--parallel=${var.dispatcher.parallel}",
      "--timeout=${var.dispatcher.timeout}",
    ])
    files   = { "/etc/kiln/kiln.yaml" = module.secrets.ids["triggers"] }
    scratch = { "/data" = var.dispatcher.scratch }
    cpu     = var.dispatcher.cpu
    memory  = var.dispatcher.memory
    # Builds are its children: it must have a CPU between requests, must not
    # be stopped when there are none, and there may be only one.
    min       = 1
    max       = 1
    busy      = true
    health    = "/healthz"
    audiences = [local.audience]
  }

  push = merge(
    contains(keys(module.plan.names.services), "dispatcher") && !var.use_eventarc ? {
      dispatch = { endpoint = "${module.control.uris["dispatcher"]}/events/in", audience = local.audience }
    } : {},
    var.notify ? {
      notify = { endpoint = module.control.uris["notify"], audience = module.control.uris["notify"] }
    } : {},
    { for name, s in var.subscribers : name => { endpoint = s.endpoint, audience = s.endpoint } if s.endpoint != null },
  )
}

locals {
  # The forges' door. It is public, since forges have no identity of Google's:
  # it checks the signature of every webhook and announces what it says.
  ingest = {
    name  = lookup(module.plan.names.services, "ingest", "")
    image = coalesce(var.images.functions, "missing/images.functions:set-it")
    email = trimprefix(lookup(module.identity.members, "ingest", ""), "serviceAccount:")
    env = {
      FUNCTION_TARGET = "GitPush"
    }
    files  = { for forge in var.forges : "/etc/kiln-${forge}/secret" => module.secrets.ids[forge] }
    public = true
  }

  # Tells others of finished builds.
  notifier = {
    name  = lookup(module.plan.names.services, "notify", "")
    image = coalesce(var.images.functions, "missing/images.functions:set-it")
    email = trimprefix(lookup(module.identity.members, "notify", ""), "serviceAccount:")
    env = {
      FUNCTION_TARGET = "BuildFinished"
    }
    env_secrets = { for secret, variable in var.notify_secrets : variable => module.secrets.ids[secret] }
  }
}
