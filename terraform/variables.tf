variable "project_id" {
  description = "Id of the project that everything is made in. It must exist and have billing."
  type        = string
}

variable "region" {
  description = "Region of everything that has one, such as europe-west1."
  type        = string
}

variable "install" {
  description = "Name of this installation. It begins the names of all that is made, so that two can share a project."
  type        = string
  default     = "kiln"
}

variable "bucket_location" {
  description = "Location of the buckets: a region, or the multi-region EU, US or ASIA. Null: the region."
  type        = string
  default     = null
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
  description = "Names of further buckets that builds may write to. None may be the watched one."
  type        = set(string)
  default     = []
}

variable "watched_prefix" {
  description = "Only uploads below this prefix are announced. Empty: all."
  type        = string
  default     = ""
}

variable "launcher" {
  description = "Who runs executors: \"process\", the dispatcher on Cloud Run as its own children; \"kubernetes\", a dispatcher in a cluster, which is made, as Jobs."
  type        = string
  default     = "process"
  validation {
    condition     = contains(["process", "kubernetes"], var.launcher)
    error_message = "launcher must be process or kubernetes. For a dispatcher elsewhere see examples/bucket-only."
  }
}

variable "tenants" {
  description = <<-EOT
    Who has builds: name to settings. `context_prefix` is where in the watched bucket its contexts lie
    (default `<tenant>/`; "" is all, for one tenant only), `secrets` are secrets that its builds may read,
    `pushers` are members that may upload contexts, `quota` and `pod_security` are those of its namespace.
  EOT
  type = map(object({
    context_prefix = optional(string)
    secrets        = optional(set(string), [])
    pushers        = optional(set(string), [])
    quota          = optional(object({ builds = optional(number), cpu = optional(string), memory = optional(string), storage = optional(string) }), {})
    pod_security   = optional(string)
  }))
  default = { default = { context_prefix = "" } }
  validation {
    condition     = var.launcher == "kubernetes" || alltrue([for t in var.tenants : t.pod_security == null && alltrue([for q in values(t.quota) : q == null])])
    error_message = "quota and pod_security are of namespaces: they need launcher = \"kubernetes\"."
  }
}

variable "forges" {
  description = "Forges whose webhooks come in: github, gitlab, gitea, bitbucket. Empty: no public door is made."
  type        = set(string)
  default     = []
}

variable "notify_url" {
  description = "Where finished builds are posted to, signed with the secret `notify`. Null: nowhere, and no function for it is deployed."
  type        = string
  default     = null
  validation {
    condition     = var.notify_url == null || startswith(coalesce(var.notify_url, "-"), "https://")
    error_message = "notify_url must be null or begin with https://."
  }
}

variable "use_eventarc" {
  description = "Deliver uploads by an Eventarc trigger and a function in place of the bucket's notification. Its hidden subscription keeps messages for 24 hours and has no dead letters."
  type        = bool
  default     = false
}

variable "subscribers" {
  description = <<-EOT
    Further subscriptions to finished builds: name to `filter`, an expression over attributes such as
    `attributes."ce-outcome" = "success"`, and `endpoint`, the URL to push to. Without one it is pulled.
  EOT
  type = map(object({
    filter   = optional(string)
    endpoint = optional(string)
  }))
  default = {}
}

variable "images" {
  description = <<-EOT
    Kiln's own images by digest or tag: `dispatcher` (with launcher process; it holds the executor as well), and those of
    the functions, `git_push` (with forges), `bucket_upload` (with use_eventarc), `build_finished` (with notify_url).
  EOT
  type = object({
    dispatcher     = optional(string)
    git_push       = optional(string)
    bucket_upload  = optional(string)
    build_finished = optional(string)
  })
  default = {}
  validation {
    condition     = var.images.dispatcher != null || var.launcher != "process"
    error_message = "images.dispatcher is missing: with launcher = \"process\" it runs on Cloud Run."
  }
  validation {
    condition     = var.images.git_push != null || length(var.forges) == 0
    error_message = "images.git_push is missing: it takes the webhooks of forges."
  }
  validation {
    condition     = var.images.bucket_upload != null || !var.use_eventarc
    error_message = "images.bucket_upload is missing: it takes uploads from Eventarc."
  }
  validation {
    condition     = var.images.build_finished != null || var.notify_url == null
    error_message = "images.build_finished is missing: it posts to notify_url."
  }
}

variable "dispatcher" {
  description = <<-EOT
    The dispatcher on Cloud Run: `cpu` and `memory`, which its builds share; `scratch`, the size of its data directory,
    which lies in that memory; `parallel` builds at a time; `timeout` of a build whose trigger has none.
  EOT
  type = object({
    cpu      = optional(string, "4")
    memory   = optional(string, "16Gi")
    scratch  = optional(string, "12Gi")
    parallel = optional(number, 2)
    timeout  = optional(string, "1h")
  })
  default = {}
}

variable "cluster" {
  description = "The cluster, with launcher kubernetes: `network`, null to make one; `authorized_networks`, names to ranges that reach the control plane by IP; `release_channel`; `binary_authorization`."
  type = object({
    network = optional(object({
      network    = string
      subnetwork = string
      pods       = string
      services   = string
    }))
    authorized_networks  = optional(map(string), {})
    release_channel      = optional(string, "REGULAR")
    binary_authorization = optional(bool, false)
  })
  default = {}
  validation {
    condition     = var.launcher == "kubernetes" || var.cluster.network == null && length(var.cluster.authorized_networks) == 0 && var.cluster.release_channel == "REGULAR" && !var.cluster.binary_authorization
    error_message = "cluster is set, but launcher is not \"kubernetes\": no cluster would be made."
  }
}

variable "retention" {
  description = "How long things are kept, see the module plan."
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
}

variable "delivery" {
  description = "How messages are delivered, see the module plan."
  type = object({
    ack_deadline_seconds    = optional(number, 60)
    max_attempts            = optional(number, 20)
    minimum_backoff_seconds = optional(number, 5)
    maximum_backoff_seconds = optional(number, 600)
  })
  default = {}
}

variable "immutable_tags" {
  description = "Whether a tag of a tenant's repository can be set only once."
  type        = bool
  default     = false
}

variable "cleanup_dry_run" {
  description = "Whether cleaning up repositories only says in the audit log what it would delete."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "Key that encrypts buckets, topics, images, secrets and the cluster, in the same region. Null: Google's own keys."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether services, the cluster and buckets that hold objects cannot be destroyed."
  type        = bool
  default     = true
}

variable "alerts" {
  description = "Who is told: `emails`, `channels` (full names of notification channels); and when, see the module observability."
  type = object({
    emails   = optional(set(string), [])
    channels = optional(list(string), [])
    thresholds = optional(object({
      unacked_seconds = optional(number, 900)
      failed_ratio    = optional(number, 0.2)
      silence_seconds = optional(number, 0)
    }), {})
  })
  default = {}
}

variable "labels" {
  description = "Labels of everything that can have some."
  type        = map(string)
  default     = {}
}
