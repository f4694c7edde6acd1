variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "names" {
  description = "Names of topics and subscriptions, from the module plan."
  type = object({
    changes       = string
    builds        = string
    dead          = string
    subscriptions = map(string)
    eventarc      = string
  })
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on topics and subscriptions."
  type = map(object({
    principal = string
    kind      = string
    target    = string
    role      = string
    prefix    = string
    why       = string
  }))
}

variable "members" {
  description = "Principals to members of IAM policies, from the module identity."
  type        = map(string)
}

variable "retention" {
  description = "How long things are kept, from the module plan: messages_seconds."
  type = object({
    messages_seconds = number
  })
}

variable "delivery" {
  description = "How messages are delivered, from the module plan."
  type = object({
    ack_deadline_seconds    = number
    max_attempts            = number
    minimum_backoff_seconds = number
    maximum_backoff_seconds = number
  })
}

variable "push" {
  description = <<-EOT
    Where messages are pushed: subscription to `endpoint`, a URL with its path, and `audience`, for whom the token is.
    A subscription that is not here is pulled. The names must be known before anything is made.
  EOT
  type = map(object({
    endpoint = string
    audience = string
  }))
  default = {}
}

variable "filters" {
  description = "Filters of subscriptions to finished builds: subscription to an expression over attributes, such as attributes.\"ce-outcome\" = \"success\"."
  type        = map(string)
  default     = {}
}

variable "eventarc" {
  description = "Deliver uploads by Eventarc: the bucket, its location, the service, its region and path. Null: by the bucket's notification."
  type = object({
    bucket   = string
    location = string
    service  = string
    region   = string
    path     = string
  })
  default = null
}

variable "kms_key" {
  description = "Key that encrypts topics, from the module identity, or null."
  type        = string
  default     = null
}

variable "regions" {
  description = "Regions that messages may be stored in. Empty: wherever the organisation allows."
  type        = list(string)
  default     = []
}

variable "labels" {
  description = "Labels of topics and subscriptions."
  type        = map(string)
  default     = {}
}
