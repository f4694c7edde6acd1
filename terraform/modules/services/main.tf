# Services stay enabled when this is destroyed: somebody else may use them.
resource "google_project_service" "this" {
  for_each = var.services

  project            = var.project_id
  service            = each.value
  disable_on_destroy = false
}
