variable "project_id" {
  description = "Id of the project. It must exist and have billing."
  type        = string
}

variable "region" {
  description = "Region of everything that has one."
  type        = string
  default     = "europe-west1"
}

variable "git_push_image" {
  description = "Image of Kiln's function GitPush, in the repository kiln-system of the project."
  type        = string
}

variable "kms_key" {
  description = "Key that encrypts everything, in the same region. Null: Google's own keys."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether what holds data cannot be destroyed."
  type        = bool
  default     = true
}
