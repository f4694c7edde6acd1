# What is decided: names, rights, services.

variables {
  project_id = "acme-builds"
  region     = "europe-west1"
}

run "one_tenant_without_a_cluster" {
  command = plan

  assert {
    condition     = output.names.contexts == "acme-builds-kiln-contexts" && output.names.ledger == "acme-builds-kiln-ledger"
    error_message = "buckets are not named for project and install"
  }
  assert {
    condition     = length(output.tenants.default.grants) == 0 && output.tenants.default.account_id == null
    error_message = "a child of the dispatcher has no identity of its own"
  }
  assert {
    condition     = contains(keys(output.grants), "dispatcher storage.objectViewer bucket contexts")
    error_message = "the dispatcher's children cannot fetch contexts"
  }
  assert {
    condition     = length([for g in output.grants : g if g.principal == "everybody"]) == 0
    error_message = "there is a public door although there is no forge"
  }
  assert {
    condition     = !contains(output.services, "container.googleapis.com") && !contains(output.services, "eventarc.googleapis.com")
    error_message = "services are enabled that nothing uses"
  }
  assert {
    condition     = length(output.warnings) == 1
    error_message = "that builds have the dispatcher's rights is not said"
  }
}

run "executors_in_a_cluster" {
  command = plan
  variables {
    launcher = "kubernetes"
    tenants  = { acme = { secrets = ["npm"] }, globex = {} }
    forges   = ["github", "gitlab"]
    notify   = true
  }

  assert {
    condition = toset([for g in output.grants : "${g.kind} ${g.target} ${g.role} ${g.prefix}" if g.principal == "executor-acme"]) == toset([
      "bucket contexts roles/storage.objectViewer acme/",
      "bucket ledger roles/storage.objectCreator builds/",
      "repository acme roles/artifactregistry.writer ",
      "repository hub roles/artifactregistry.reader ",
      "repository cache-acme roles/artifactregistry.writer ",
      "secret npm roles/secretmanager.secretAccessor ",
      "project project roles/logging.logWriter ",
    ])
    error_message = "an executor has other rights than it needs"
  }
  assert {
    condition     = alltrue([for g in output.grants : !strcontains(g.principal, "globex") || !contains(["acme", "cache-acme", "npm"], g.target)])
    error_message = "one tenant reaches another's things"
  }
  assert {
    condition = toset([for g in output.grants : "${g.kind} ${g.target} ${g.role} ${g.prefix}" if g.principal == "ingest"]) == toset([
      "secret github roles/secretmanager.secretAccessor ",
      "secret gitlab roles/secretmanager.secretAccessor ",
      "topic changes roles/pubsub.publisher ",
    ])
    error_message = "the forges' door has other rights than it needs"
  }
  assert {
    condition     = [for g in output.grants : "${g.kind} ${g.target}" if g.principal == "everybody"] == ["service ingest"]
    error_message = "something besides the forges' door is public"
  }
  assert {
    condition     = alltrue([for g in output.grants : !contains(["roles/owner", "roles/editor", "roles/viewer"], g.role)])
    error_message = "there is a basic role"
  }
  assert {
    condition     = !contains(keys(output.names.services), "dispatcher") && contains(keys(output.grants), "dispatcher pubsub.subscriber subscription dispatch")
    error_message = "the dispatcher in the cluster does not pull"
  }
  assert {
    condition = alltrue([
      for s in keys(output.names.subscriptions) : contains(keys(output.grants), "agent-pubsub pubsub.subscriber subscription ${s}")
    ]) && contains(keys(output.grants), "agent-pubsub pubsub.publisher topic dead")
    error_message = "Pub/Sub cannot move dead letters"
  }
}

run "eventarc" {
  command = plan
  variables {
    use_eventarc = true
  }
  assert {
    condition     = contains(keys(output.names.subscriptions), "dispatch") && contains(output.services, "eventarc.googleapis.com")
    error_message = "what the function announces is not delivered"
  }
  assert {
    condition     = contains(keys(output.grants), "agent-storage pubsub.publisher project project") && contains(keys(output.grants), "push eventarc.eventReceiver project project") && contains(keys(output.grants), "push run.invoker service upload") && contains(keys(output.grants), "upload pubsub.publisher topic changes")
    error_message = "Eventarc lacks rights"
  }
}

run "encrypted" {
  command = plan
  variables {
    kms_key = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k"
  }
  assert {
    condition     = length([for g in output.grants : g if g.kind == "key"]) == 5
    error_message = "not every agent may use the key"
  }
}

run "multi_region" {
  command = plan
  variables {
    bucket_location = "EU"
  }
  assert {
    condition     = output.location == "EU"
    error_message = "the buckets are not where they should be"
  }
}
