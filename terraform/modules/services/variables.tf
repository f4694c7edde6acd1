variable "project_id" {
  description = "Id of the project."
  type        = string
}

variable "services" {
  description = "APIs to enable, such as run.googleapis.com."
  type        = set(string)
}
