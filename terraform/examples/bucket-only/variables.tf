variable "project_id" {
  description = "Id of the project. It must exist and have billing."
  type        = string
}

variable "region" {
  description = "Region of everything that has one."
  type        = string
  default     = "europe-west1"
}

variable "dispatcher_member" {
  description = "Who the dispatcher is, as a member of IAM policies: best an identity of a workload identity pool, principal://…, so that there is no key."
  type        = string
}
