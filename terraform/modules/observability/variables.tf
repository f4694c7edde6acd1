variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "install" {
  description = "Name of the installation, in the titles of alerts."
  type        = string
}

variable "subscriptions" {
  description = "Names of the subscriptions that must not lag, from the module plan: what for, to the name."
  type        = map(string)
}

variable "dead" {
  description = "Name of the subscription to dead letters."
  type        = string
}

variable "services" {
  description = "Names of the Cloud Run services, from the module plan. Empty: there are none."
  type        = map(string)
  default     = {}
}

variable "cluster" {
  description = "Name of the cluster whose dispatcher logs, or null."
  type        = string
  default     = null
}

variable "emails" {
  description = "Addresses that alerts are sent to."
  type        = set(string)
  default     = []
}

variable "channels" {
  description = "Full names of further notification channels."
  type        = list(string)
  default     = []
}

variable "thresholds" {
  description = "When to alert: `unacked_seconds`: age of the oldest message; `failed_ratio`: of builds that failed for reasons of ours; `silence_seconds`: how long the dispatcher may say nothing, 0 for ever."
  type = object({
    unacked_seconds = optional(number, 900)
    failed_ratio    = optional(number, 0.2)
    silence_seconds = optional(number, 0)
  })
  default = {}
  validation {
    condition     = var.thresholds.failed_ratio > 0 && var.thresholds.failed_ratio <= 1
    error_message = "thresholds.failed_ratio must be above 0 and at most 1."
  }
  validation {
    condition     = var.thresholds.silence_seconds == 0 || var.thresholds.silence_seconds >= 120 && var.thresholds.silence_seconds % 60 == 0 && var.thresholds.silence_seconds <= 84600
    error_message = "thresholds.silence_seconds must be 0, or whole minutes from 120 to 84600."
  }
}

variable "labels" {
  description = "Labels of the alerts."
  type        = map(string)
  default     = {}
}
