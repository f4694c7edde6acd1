variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "region" {
  description = "Region of the services."
  type        = string
}

variable "services" {
  description = <<-EOT
    What runs: service to its settings. `name` and `image`; `args` and `env`; `files`: paths to full names of
    secrets, mounted there; `env_secrets`: variables to full names of secrets; `scratch`: a path to the size of a
    directory in memory; `min` and `max` instances; `busy`: whether it has a CPU between requests; `health`: the
    path that answers when it works; `audiences`: for whom tokens may be besides its own address.
  EOT
  type = map(object({
    name        = string
    image       = string
    email       = string
    args        = optional(list(string), [])
    env         = optional(map(string), {})
    env_secrets = optional(map(string), {})
    files       = optional(map(string), {})
    scratch     = optional(map(string), {})
    cpu         = optional(string, "1")
    memory      = optional(string, "512Mi")
    min         = optional(number, 0)
    max         = optional(number, 10)
    concurrency = optional(number, 80)
    timeout     = optional(number, 60)
    busy        = optional(bool, false)
    health      = optional(string)
    public      = optional(bool, false)
    audiences   = optional(list(string), [])
  }))
  validation {
    condition     = alltrue([for s in var.services : s.min <= s.max])
    error_message = "A service has more instances at least than at most."
  }
  validation {
    condition     = alltrue([for s in var.services : length(distinct([for path in keys(s.files) : dirname(path)])) == length(s.files)])
    error_message = "Every file of a service needs a directory of its own: a mounted secret hides what else is there."
  }
  validation {
    condition     = alltrue([for s in var.services : can(regex("^[^:@ ]+(:[0-9]+)?/[^ ]+(:[^/ ]+|@sha256:[0-9a-f]{64})$", s.image))])
    error_message = "An image is host/path:tag or host/path@sha256:…."
  }
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on services."
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

variable "kms_key" {
  description = "Key that encrypts the images of the services, from the module identity, or null."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the services cannot be destroyed."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Labels of the services."
  type        = map(string)
  default     = {}
}
