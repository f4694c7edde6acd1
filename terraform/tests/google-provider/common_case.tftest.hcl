# For CI with Google's own provider. See README.md: NOT RUN with it here.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_data "google_storage_project_service_account" {
    defaults = {
      email_address = "service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
      member        = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
    }
  }
  mock_resource "google_pubsub_topic" {
    defaults = { id = "projects/acme-builds/topics/mock" }
  }
  mock_resource "google_service_account" {
    defaults = {
      email  = "kiln-mock@acme-builds.iam.gserviceaccount.com"
      member = "serviceAccount:kiln-mock@acme-builds.iam.gserviceaccount.com"
      name   = "projects/acme-builds/serviceAccounts/kiln-mock@acme-builds.iam.gserviceaccount.com"
    }
  }
  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://kiln-mock-ew.a.run.app" }
  }
  mock_resource "google_secret_manager_secret" {
    defaults = { id = "projects/acme-builds/secrets/mock" }
  }
}

variables {
  project_id = "acme-builds"
  region     = "europe-west1"
  images = {
    dispatcher     = "europe-west1-docker.pkg.dev/acme-builds/kiln-system/dispatcher:1"
    git_push       = "europe-west1-docker.pkg.dev/acme-builds/kiln-system/git-push:1"
    bucket_upload  = "europe-west1-docker.pkg.dev/acme-builds/kiln-system/bucket-upload:1"
    build_finished = "europe-west1-docker.pkg.dev/acme-builds/kiln-system/build-finished:1"
  }
}

run "cloud_run" {
  command = apply
  variables {
    forges     = ["github"]
    notify_url = "https://chat.example.com/kiln"
    alerts     = { emails = ["ops@example.com"] }
  }
  assert {
    condition     = output.contexts_bucket == "acme-builds-kiln-contexts"
    error_message = "the bucket is called otherwise"
  }
  assert {
    condition     = length(output.webhook_urls) == 1
    error_message = "there is no address for webhooks"
  }
}

run "eventarc" {
  command = apply
  variables {
    use_eventarc = true
  }
}

run "cluster" {
  command = apply
  variables {
    launcher = "kubernetes"
    tenants  = { shop = { pushers = ["group:shop@example.com"] }, data = { secrets = ["npm-token"] } }
  }
  assert {
    condition     = output.cluster.name == "kiln" && strcontains(output.manifests, "kiln-shop")
    error_message = "there is no cluster or no namespace"
  }
}

run "own_key" {
  command = apply
  variables {
    kms_key = "projects/acme-keys/locations/europe-west1/keyRings/builds/cryptoKeys/kiln"
  }
}

run "image_missing" {
  command = plan
  variables {
    images = {}
  }
  expect_failures = [var.images]
}

run "cluster_without_a_cluster" {
  command = plan
  variables {
    cluster = { release_channel = "RAPID" }
  }
  expect_failures = [var.cluster]
}
