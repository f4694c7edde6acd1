variable "project_id" {
  description = "Id of the project, from the module services."
  type        = string
}

variable "region" {
  description = "Region of the cluster."
  type        = string
}

variable "name" {
  description = "Name of the cluster and of the network that is made for it."
  type        = string
}

variable "network" {
  description = "Network to use: `network` and `subnetwork`, and the names of the secondary ranges `pods` and `services`. For a shared VPC full names. Null: a network is made, with a way out."
  type = object({
    network    = string
    subnetwork = string
    pods       = string
    services   = string
  })
  default = null
}

variable "ranges" {
  description = "Addresses of the network that is made: nodes, pods, services."
  type = object({
    nodes    = optional(string, "10.40.0.0/20")
    pods     = optional(string, "10.44.0.0/14")
    services = optional(string, "10.48.0.0/20")
  })
  default = {}
}

variable "node_member" {
  description = "Member of the account that nodes run as, from the module identity: serviceAccount:…."
  type        = string
}

variable "dispatcher" {
  description = "Full name of the dispatcher's service account, which the Kubernetes service account of the same name in `control_namespace` acts as."
  type        = string
}

variable "dispatcher_email" {
  description = "Email of the dispatcher's service account."
  type        = string
}

variable "control_namespace" {
  description = "Namespace of the dispatcher."
  type        = string
}

variable "authorized_networks" {
  description = "Who reaches the control plane by IP: name to range. Empty: nobody; the DNS endpoint and IAM decide."
  type        = map(string)
  default     = {}
}

variable "release_channel" {
  description = "RAPID, REGULAR or STABLE."
  type        = string
  default     = "REGULAR"
  validation {
    condition     = contains(["RAPID", "REGULAR", "STABLE"], var.release_channel)
    error_message = "release_channel must be RAPID, REGULAR or STABLE."
  }
}

variable "binary_authorization" {
  description = "Whether the project's binary authorization policy is enforced."
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "Key that encrypts the cluster's secrets and the nodes' disks, from the module identity, or null."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the cluster cannot be destroyed."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Labels of the cluster."
  type        = map(string)
  default     = {}
}
