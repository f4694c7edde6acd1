variable "project_id" {
  description = "Id of the project. It must exist and have billing."
  type        = string
}

variable "region" {
  description = "Region of everything that has one."
  type        = string
  default     = "europe-west1"
}

variable "images" {
  description = "Kiln's own images, in the repository kiln-system of the project: `dispatcher`, `git_push`, and with notify_url `build_finished`."
  type = object({
    dispatcher     = string
    git_push       = string
    build_finished = optional(string)
  })
}

variable "alert_emails" {
  description = "Addresses that alerts are sent to."
  type        = set(string)
  default     = []
}

variable "deletion_protection" {
  description = "Whether what holds data cannot be destroyed."
  type        = bool
  default     = true
}

variable "notify_url" {
  description = "Where finished builds are posted to, or null."
  type        = string
  default     = null
}
