variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "region" {
  description = "Region of the repositories."
  type        = string
}

variable "names" {
  description = "Names of the repositories, from the module plan: tenants' own and their layers, Kiln's own images, base images."
  type = object({
    repositories = map(string)
    system       = string
    hub          = string
    caches       = map(string)
  })
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on repositories."
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
  description = "How long things are kept, from the module plan: untagged_days, cache_days, keep_images."
  type = object({
    untagged_days = number
    cache_days    = number
    keep_images   = number
  })
}

variable "immutable_tags" {
  description = "Whether a tag of a tenant's repository can be set only once. Triggers that move tags, such as a branch's, fail then."
  type        = bool
  default     = false
}

variable "cleanup_dry_run" {
  description = "Whether cleaning up only says in the audit log what it would delete."
  type        = bool
  default     = false
}

variable "scanning" {
  description = "Whether images are scanned for vulnerabilities if the project's service for it is enabled, which costs a fee for each image."
  type        = bool
  default     = true
}

variable "kms_key" {
  description = "Key that encrypts the repositories, from the module identity, or null."
  type        = string
  default     = null
}

variable "labels" {
  description = "Labels of the repositories."
  type        = map(string)
  default     = {}
}
