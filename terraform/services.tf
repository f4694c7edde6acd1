# What runs on Cloud Run, with the flags and variables of the programs of
# functions/. terraform/tests checks them against those programs.

locals {
  # For whom tokens are. It is a name of ours and not the service's address,
  # which the service would have to know before it is made.
  audience = "https://dispatcher.${var.install}.${var.project_id}"

  topic = { for t in ["changes", "builds"] : t => "pubsub://${var.project_id}/${module.plan.names[t]}" }
  email = { for principal, member in module.identity.members : principal => trimprefix(member, "serviceAccount:") }

  services = { for service, s in local.known : service => s if contains(keys(module.plan.names.services), service) }
  known = {
    dispatcher = local.dispatcher
    ingest     = local.ingest
    upload     = local.upload
    notify     = local.notify
  }

  # What a dispatcher needs to know wherever it runs.
  flags = [
    "--ledger=gs://${module.storage.ledger}",
    "--bus=${local.topic["builds"]}",
    "--install=${var.install}",
  ]

  # Builds are its children: it must have a CPU between requests, must not be
  # stopped when there are none, and there may be only one of it.
  dispatcher = {
    name  = lookup(module.plan.names.services, "dispatcher", "")
    image = var.images.dispatcher
    email = lookup(local.email, "dispatcher", "")
    args = concat(local.flags, [
      "--listen=0.0.0.0:8080",
      "--data=/data",
      "--triggers=/etc/kiln/kiln.yaml",
      "--oidc-audience=${local.audience}",
      "--oidc-email=${lookup(local.email, "push", "")}",
      "--max-parallel=${var.dispatcher.parallel}",
      "--timeout=${var.dispatcher.timeout}",
      "--log-format=json",
    ])
    files     = { "/etc/kiln/kiln.yaml" = lookup(module.secrets.ids, "triggers", "") }
    scratch   = { "/data" = var.dispatcher.scratch }
    cpu       = var.dispatcher.cpu
    memory    = var.dispatcher.memory
    min       = 1
    max       = 1
    busy      = true
    health    = "/healthz"
    audiences = [local.audience]
  }

  # The forges' door. It is public, since forges have no identity of Google's:
  # it checks the signature of every webhook and announces what it says.
  ingest = {
    name  = lookup(module.plan.names.services, "ingest", "")
    image = var.images.git_push
    email = lookup(local.email, "ingest", "")
    env = {
      FUNCTION_TARGET = "GitPush"
      KILN_INSTALL    = var.install
      KILN_CHANGES    = local.topic["changes"]
    }
    env_secrets = { for forge in var.forges : "KILN_${upper(forge)}_SECRET" => module.secrets.ids[forge] }
    public      = true
  }

  # Where Eventarc delivers uploads.
  upload = {
    name  = lookup(module.plan.names.services, "upload", "")
    image = var.images.bucket_upload
    email = lookup(local.email, "upload", "")
    env = {
      FUNCTION_TARGET = "BucketUpload"
      KILN_INSTALL    = var.install
      KILN_CHANGES    = local.topic["changes"]
    }
  }

  # Posts finished builds to an address.
  notify = {
    name  = lookup(module.plan.names.services, "notify", "")
    image = var.images.build_finished
    email = lookup(local.email, "notify", "")
    env = {
      FUNCTION_TARGET = "BuildFinished"
      KILN_INSTALL    = var.install
      KILN_NOTIFY_URL = coalesce(var.notify_url, "none")
    }
    env_secrets = { KILN_NOTIFY_SECRET = lookup(module.secrets.ids, "notify", "") }
  }

  push = merge(
    contains(keys(module.plan.names.services), "dispatcher") ? {
      dispatch = { endpoint = "${module.control.uris["dispatcher"]}/events/in", audience = local.audience }
    } : {},
    # The function reads the topic from the path.
    var.notify_url == null ? {} : {
      notify = { endpoint = "${module.control.uris["notify"]}/projects/${var.project_id}/topics/${module.plan.names.builds}", audience = module.control.uris["notify"] }
    },
    { for name, s in var.subscribers : name => { endpoint = s.endpoint, audience = s.endpoint } if s.endpoint != null },
  )
}
