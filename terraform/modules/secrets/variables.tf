variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "region" {
  description = "Region that the secrets are kept in."
  type        = string
}

variable "secrets" {
  description = "Secrets to make: what for, to the name; from the module plan."
  type        = map(string)
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on secrets."
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
  description = "Key that encrypts the secrets, from the module identity, or null."
  type        = string
  default     = null
}

variable "labels" {
  description = "Labels of the secrets."
  type        = map(string)
  default     = {}
}
