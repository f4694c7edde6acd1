variable "project_id" {
  description = "Id of the project. It must exist and have billing."
  type        = string
}

variable "region" {
  description = "Region of everything that has one."
  type        = string
  default     = "europe-west1"
}

variable "network" {
  description = "Subnetwork of a shared VPC for the cluster, by full names, with the names of its secondary ranges."
  type = object({
    network    = string
    subnetwork = string
    pods       = string
    services   = string
  })
}

variable "git_push_image" {
  description = "Image of Kiln's function GitPush, in the repository kiln-system of the project."
  type        = string
}

variable "deletion_protection" {
  description = "Whether what holds data cannot be destroyed."
  type        = bool
  default     = true
}
