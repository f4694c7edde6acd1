variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "accounts" {
  description = "Service accounts to make: principal to account id, from the module plan."
  type        = map(string)
}

variable "grants" {
  description = "Rights to grant, from the module plan; here those on the project, on accounts and on the key."
  type = map(object({
    principal = string
    kind      = string
    target    = string
    role      = string
    prefix    = string
    why       = string
  }))
}

variable "kms_key" {
  description = "Key that encrypts everything, or null."
  type        = string
  default     = null
}
