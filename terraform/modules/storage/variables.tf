variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "location" {
  description = "Location of the buckets, from the module plan."
  type        = string
}

variable "contexts" {
  description = "Name of the bucket that is watched for uploads."
  type        = string
}

variable "ledger" {
  description = "Name of the bucket with the records of builds. It may not be the watched one."
  type        = string
  validation {
    condition     = var.ledger != var.contexts
    error_message = "The ledger is the watched bucket: every record of a build would start a build."
  }
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on buckets."
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
  description = "How long things are kept, from the module plan: contexts_days, ledger_days, soft_delete_seconds."
  type = object({
    contexts_days       = number
    ledger_days         = number
    soft_delete_seconds = number
  })
}

variable "notify" {
  description = "Whether uploads are announced on the topic. False where Eventarc does it."
  type        = bool
  default     = true
}

variable "topic" {
  description = "Full name of the topic for changes, from the module bus: once Cloud Storage may publish to it."
  type        = string
  default     = null
}

variable "watched_prefix" {
  description = "Only uploads below this prefix are announced. Empty: all."
  type        = string
  default     = ""
}

variable "kms_key" {
  description = "Key that encrypts the buckets, from the module identity, or null."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether buckets that hold objects cannot be destroyed."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Labels of the buckets."
  type        = map(string)
  default     = {}
}
