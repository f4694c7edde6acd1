variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "region" {
  description = "Region of the repositories."
  type        = string
}

variable "name" {
  description = "Name of the tenant."
  type        = string
}

variable "settings" {
  description = "Settings and rights of the tenant, from the module plan."
  type = object({
    account_id = string
    namespace  = string
    grants = map(object({
      principal = string
      kind      = string
      target    = string
      role      = string
      prefix    = string
      why       = string
    }))
  })
  validation {
    condition     = length(setsubtract([for g in var.settings.grants : g.kind], ["bucket", "repository", "secret", "project"])) == 0
    error_message = "An executor may have rights on buckets, repositories, secrets and the project's log, and on nothing else."
  }
  validation {
    condition     = alltrue([for g in var.settings.grants : g.kind != "bucket" || g.target != "ledger" || g.role == "roles/storage.objectCreator"])
    error_message = "An executor may create records in the ledger and do nothing else to it."
  }
}

variable "buckets" {
  description = "Names of the buckets contexts and ledger, from the module storage."
  type        = map(string)
}

variable "repositories" {
  description = "Names of the repositories, from the module registry."
  type        = map(string)
}

variable "secrets" {
  description = "Full names of the secrets, from the module secrets."
  type        = map(string)
}

variable "workload_pool" {
  description = "Pool of workload identities, from the module cluster-autopilot."
  type        = string
}

variable "control_namespace" {
  description = "Namespace of the dispatcher, which makes the tenant's Jobs."
  type        = string
}

variable "quota" {
  description = "What the tenant's builds may use together, and the number of builds at a time."
  type = object({
    builds  = optional(number, 20)
    cpu     = optional(string, "40")
    memory  = optional(string, "160Gi")
    storage = optional(string, "400Gi")
  })
  default = {}
}

variable "pod_security" {
  description = "Level of the Pod Security Standards that the namespace enforces: \"baseline\" lets builds RUN in the container's own root; \"restricted\" lets only those build that need no RUN."
  type        = string
  default     = "baseline"
  validation {
    condition     = contains(["privileged", "baseline", "restricted"], var.pod_security)
    error_message = "pod_security must be privileged, baseline or restricted."
  }
}
