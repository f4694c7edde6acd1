variable "project_id" {
  description = "Id of the project that everything is made in."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be 6 to 30 lower-case letters, digits and hyphens, beginning with a letter: the id of the project, not its name or number."
  }
}

variable "region" {
  description = "Region of everything that has one, such as europe-west1."
  type        = string
  validation {
    condition     = can(regex("^(africa|asia|australia|europe|me|northamerica|southamerica|us)-(central|east|north|northeast|northwest|south|southeast|southwest|west)[1-9][0-9]?$", var.region))
    error_message = "region must be a region such as europe-west1: not a zone (europe-west1-b), not a multi-region (EU), not another cloud's (eu-west-1)."
  }
}

variable "install" {
  description = "Name of this installation. It begins the names of all that is made, so that two can share a project."
  type        = string
  default     = "kiln"
  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$", var.install))
    error_message = "install must be 1 to 12 lower-case letters, digits and hyphens: names of service accounts have 30 characters and hold it."
  }
}

variable "bucket_location" {
  description = "Location of the buckets: a region, or the multi-region EU, US or ASIA. Null: the region."
  type        = string
  default     = null
  validation {
    condition     = can(regex("^(EU|US|ASIA|[a-z]+-[a-z]+[1-9][0-9]?)$", coalesce(var.bucket_location, "EU")))
    error_message = "bucket_location must be null, a region such as europe-west1, or EU, US or ASIA."
  }
  validation {
    condition     = startswith(var.region, lookup({ EU = "europe-", US = "us-", ASIA = "asia-" }, coalesce(var.bucket_location, "-"), ""))
    error_message = "bucket_location is a multi-region on another continent than region: every build would pay for crossing."
  }
}

variable "contexts_bucket" {
  description = "Name of the bucket that is watched for uploads. Null: <project>-<install>-contexts."
  type        = string
  default     = null
}

variable "ledger_bucket" {
  description = "Name of the bucket with the records of builds. Null: <project>-<install>-ledger."
  type        = string
  default     = null
}

variable "output_buckets" {
  description = "Names of further buckets that builds may write to. None may be the watched one: every build would start the next."
  type        = set(string)
  default     = []
}

variable "watched_prefix" {
  description = "Only uploads below this prefix are announced. Empty: all."
  type        = string
  default     = ""
  validation {
    condition     = var.watched_prefix == "" || (endswith(var.watched_prefix, "/") && !startswith(var.watched_prefix, "/"))
    error_message = "watched_prefix must be empty or end in a slash and not begin with one."
  }
  validation {
    condition     = var.watched_prefix == "" || !var.use_eventarc
    error_message = "Eventarc announces whole buckets: watched_prefix goes with the bucket's own notification only."
  }
}

variable "launcher" {
  description = <<-EOT
    Who runs executors: "process", a dispatcher on Cloud Run as its own children; "kubernetes", a dispatcher in a
    cluster as Jobs; "elsewhere", a dispatcher outside of Google Cloud, which pulls and has registry and secrets of its own.
  EOT
  type        = string
  default     = "process"
  validation {
    condition     = contains(["process", "kubernetes", "elsewhere"], var.launcher)
    error_message = "launcher must be process, kubernetes or elsewhere."
  }
}

variable "tenants" {
  description = <<-EOT
    Who has builds: name to settings. `context_prefix` is where in the watched bucket its contexts lie
    (default `<tenant>/`; "" is all, for one tenant only), `secrets` are secrets that its builds may read,
    `pushers` are members that may upload contexts.
  EOT
  type = map(object({
    context_prefix = optional(string)
    secrets        = optional(set(string), [])
    pushers        = optional(set(string), [])
  }))
  default = { default = { context_prefix = "" } }
  validation {
    condition     = length(var.tenants) > 0
    error_message = "There must be a tenant; one that has all is { default = { context_prefix = \"\" } }."
  }
  validation {
    condition     = alltrue([for t in keys(var.tenants) : can(regex("^[a-z]([a-z0-9-]{0,12}[a-z0-9])?$", t))])
    error_message = "A tenant's name must be 1 to 14 lower-case letters, digits and hyphens."
  }
  validation {
    condition     = alltrue([for t in values(var.tenants) : t.context_prefix == null || t.context_prefix == "" || (endswith(coalesce(t.context_prefix, "-"), "/") && !startswith(coalesce(t.context_prefix, "-"), "/"))])
    error_message = "A tenant's context_prefix must end in a slash and not begin with one."
  }
  validation {
    condition     = length(var.tenants) == 1 || alltrue([for t in values(var.tenants) : t.context_prefix != ""])
    error_message = "With several tenants none may have the whole bucket: context_prefix = \"\" lets it read everybody's sources."
  }
  validation {
    condition = alltrue(flatten([
      for a, ta in var.tenants : [
        for b, tb in var.tenants : a == b || !startswith(tb.context_prefix == null ? "${b}/" : tb.context_prefix, ta.context_prefix == null ? "${a}/" : ta.context_prefix)
      ]
    ]))
    error_message = "One tenant's context_prefix begins another's: it could read the other's sources."
  }
  validation {
    condition     = var.launcher == "kubernetes" || length(var.tenants) == 1
    error_message = "Without launcher = \"kubernetes\" all builds run as the dispatcher, so that tenants could not be kept apart: use one tenant, or launcher = \"kubernetes\"."
  }
  validation {
    condition     = alltrue([for t in values(var.tenants) : alltrue([for m in t.pushers : can(regex("^(user|serviceAccount|group|domain|principal|principalSet):.+$", m))])])
    error_message = "A pusher is user:…, group:…, serviceAccount:…, domain:…, principal:… or principalSet:…; never allUsers."
  }
}

variable "forges" {
  description = "Forges whose webhooks come in: github, gitlab, gitea, bitbucket. Empty: no public door is made."
  type        = set(string)
  default     = []
  validation {
    condition     = length(setsubtract(var.forges, ["github", "gitlab", "gitea", "bitbucket"])) == 0
    error_message = "forges may be github, gitlab, gitea (Forgejo as well) and bitbucket."
  }
}

variable "notify" {
  description = "Whether the function that posts finished builds to an address is deployed."
  type        = bool
  default     = false
  validation {
    condition     = var.launcher != "elsewhere" || !var.notify && length(var.forges) == 0
    error_message = "With launcher = \"elsewhere\" nothing runs on Google Cloud: no forges, no notify."
  }
}

variable "use_eventarc" {
  description = "Deliver uploads by an Eventarc trigger and a function in place of the bucket's notification. Its hidden subscription keeps messages for 24 hours and has no dead letters."
  type        = bool
  default     = false
  validation {
    condition     = !var.use_eventarc || var.launcher != "elsewhere"
    error_message = "use_eventarc takes a function on Cloud Run: not with launcher = \"elsewhere\"."
  }
}

variable "subscribers" {
  description = "Further subscriptions to finished builds: name to whether it is pushed, which takes an account to sign with."
  type        = map(bool)
  default     = {}
  validation {
    condition     = alltrue([for s in keys(var.subscribers) : can(regex("^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$", s))])
    error_message = "A subscriber's name must be 1 to 40 lower-case letters, digits and hyphens."
  }
}

variable "retention" {
  description = <<-EOT
    How long things are kept. `contexts_days`: uploads; `ledger_days`: records of builds; `messages_seconds`: what
    could not be delivered yet, and dead letters; `soft_delete_seconds`: deleted objects of both buckets;
    `untagged_days`: images without a tag; `cache_days`: the layer cache; `keep_images`: the newest of each image, always.
  EOT
  type = object({
    contexts_days       = optional(number, 30)
    ledger_days         = optional(number, 90)
    messages_seconds    = optional(number, 604800)
    soft_delete_seconds = optional(number, 604800)
    untagged_days       = optional(number, 14)
    cache_days          = optional(number, 14)
    keep_images         = optional(number, 20)
  })
  default = {}
  validation {
    condition     = var.retention.messages_seconds >= 600 && var.retention.messages_seconds <= 604800
    error_message = "retention.messages_seconds must be from 600 (10 minutes) to 604800 (7 days), Pub/Sub's limits."
  }
  validation {
    condition     = var.retention.soft_delete_seconds == 0 || (var.retention.soft_delete_seconds >= 604800 && var.retention.soft_delete_seconds <= 7776000)
    error_message = "retention.soft_delete_seconds must be 0, or from 604800 (7 days) to 7776000 (90 days), Cloud Storage's limits."
  }
  validation {
    condition     = var.retention.contexts_days >= 1 && var.retention.untagged_days >= 1 && var.retention.cache_days >= 1 && var.retention.keep_images >= 1
    error_message = "retention.contexts_days, untagged_days, cache_days and keep_images must be at least 1."
  }
  validation {
    condition     = var.retention.ledger_days >= 8
    error_message = "retention.ledger_days must be at least 8: a message is redelivered for up to 7 days, and the record of its build is what stops a second build."
  }
}

variable "delivery" {
  description = <<-EOT
    How messages are delivered. `ack_deadline_seconds`: how long an answer may take; `max_attempts`: after how many a
    message is a dead letter; `minimum_backoff_seconds` and `maximum_backoff_seconds`: the wait between two.
  EOT
  type = object({
    ack_deadline_seconds    = optional(number, 60)
    max_attempts            = optional(number, 20)
    minimum_backoff_seconds = optional(number, 5)
    maximum_backoff_seconds = optional(number, 600)
  })
  default = {}
  validation {
    condition     = var.delivery.ack_deadline_seconds >= 10 && var.delivery.ack_deadline_seconds <= 600
    error_message = "delivery.ack_deadline_seconds must be from 10 to 600, Pub/Sub's limits."
  }
  validation {
    condition     = var.delivery.max_attempts >= 5 && var.delivery.max_attempts <= 100
    error_message = "delivery.max_attempts must be from 5 to 100, Pub/Sub's limits."
  }
  validation {
    condition     = var.delivery.minimum_backoff_seconds >= 0 && var.delivery.minimum_backoff_seconds <= var.delivery.maximum_backoff_seconds && var.delivery.maximum_backoff_seconds <= 600
    error_message = "delivery: 0 <= minimum_backoff_seconds <= maximum_backoff_seconds <= 600."
  }
}

variable "kms_key" {
  description = "Key that encrypts buckets, topics, images, secrets and the cluster's secrets, projects/…/cryptoKeys/…. Null: Google's own keys."
  type        = string
  default     = null
  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must be of the form projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version."
  }
  validation {
    condition     = var.kms_key == null || (var.bucket_location == null || var.bucket_location == var.region) && try(split("/", var.kms_key)[3], "") == var.region
    error_message = "kms_key must lie in region, and the buckets as well: buckets, images and secrets share it."
  }
}
