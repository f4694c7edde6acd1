# Everything on Cloud Run: uploads and pushes to GitHub are built by the
# dispatcher itself. One tenant, no cluster.

module "kiln" {
  source = "../.."

  project_id = var.project_id
  region     = var.region
  forges     = ["github"]
  images     = var.images

  # Who is told of finished builds, besides subscribers to the topic.
  notify_url = var.notify_url

  subscribers = {
    deploy = { filter = "attributes.\"ce-outcome\" = \"success\"" }
  }
  alerts              = { emails = var.alert_emails }
  deletion_protection = var.deletion_protection
}
