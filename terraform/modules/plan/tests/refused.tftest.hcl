# What must not be planned. Every run changes one thing of a good plan.

variables {
  project_id = "acme-builds"
  region     = "europe-west1"
}

run "good" {
  command = plan
}

run "ledger_is_the_watched_bucket" {
  command = plan
  variables {
    contexts_bucket = "acme-shared"
    ledger_bucket   = "acme-shared"
  }
  expect_failures = [output.names]
}

run "ledger_is_the_watched_bucket_by_its_default_name" {
  command = plan
  variables {
    ledger_bucket = "acme-builds-kiln-contexts"
  }
  expect_failures = [output.names]
}

run "output_is_the_watched_bucket" {
  command = plan
  variables {
    output_buckets = ["acme-results", "acme-builds-kiln-contexts"]
  }
  expect_failures = [output.names]
}

run "output_elsewhere_is_allowed" {
  command = plan
  variables {
    output_buckets = ["acme-results"]
  }
}

run "bucket_name_over_63" {
  command = plan
  variables {
    contexts_bucket = "a123456789b123456789c123456789d123456789e123456789f123456789g123"
  }
  expect_failures = [output.names]
}

run "bucket_name_of_google" {
  command = plan
  variables {
    ledger_bucket = "goog-ledger"
  }
  expect_failures = [output.names]
}

run "install_over_12" {
  command = plan
  variables {
    install = "kiln-of-acme1"
  }
  expect_failures = [var.install]
}

run "tenant_over_14" {
  command = plan
  variables {
    tenants = { a12345678901234 = { context_prefix = "" } }
  }
  expect_failures = [var.tenants]
}

run "longest_names_fit" {
  command = plan
  variables {
    project_id = "a23456789012345678901234567890"
    install    = "i23456789012"
    launcher   = "kubernetes"
    tenants    = { t2345678901234 = {} }
  }
  assert {
    condition     = alltrue([for n in output.names.accounts : length(n) <= 30])
    error_message = "a service account's id is longer than 30"
  }
  assert {
    condition     = length(output.names.contexts) <= 63 && length(output.names.ledger) <= 63
    error_message = "a bucket's name is longer than 63"
  }
}

run "project_number" {
  command = plan
  variables {
    project_id = "123456789012"
  }
  expect_failures = [var.project_id]
}

run "region_is_a_zone" {
  command = plan
  variables {
    region = "europe-west1-b"
  }
  expect_failures = [var.region]
}

run "region_is_a_multi_region" {
  command = plan
  variables {
    region = "EU"
  }
  expect_failures = [var.region]
}

run "region_of_another_cloud" {
  command = plan
  variables {
    region = "eu-west-1"
  }
  expect_failures = [var.region]
}

run "region_without_a_number" {
  command = plan
  variables {
    region = "us-central"
  }
  expect_failures = [var.region]
}

run "buckets_on_another_continent" {
  command = plan
  variables {
    bucket_location = "US"
  }
  expect_failures = [var.bucket_location]
}

run "buckets_nowhere" {
  command = plan
  variables {
    bucket_location = "eu"
  }
  expect_failures = [var.bucket_location]
}

run "two_tenants_without_a_cluster" {
  command = plan
  variables {
    tenants = { acme = {}, globex = {} }
  }
  expect_failures = [var.tenants]
}

run "two_tenants_one_with_all" {
  command = plan
  variables {
    launcher = "kubernetes"
    tenants  = { acme = { context_prefix = "" }, globex = {} }
  }
  expect_failures = [var.tenants]
}

run "a_tenant_within_another" {
  command = plan
  variables {
    launcher = "kubernetes"
    tenants  = { acme = {}, globex = { context_prefix = "acme/globex/" } }
  }
  expect_failures = [var.tenants]
}

run "no_tenant" {
  command = plan
  variables {
    tenants = {}
  }
  expect_failures = [var.tenants]
}

run "everybody_uploads" {
  command = plan
  variables {
    tenants = { acme = { pushers = ["allUsers"] } }
  }
  expect_failures = [var.tenants]
}

run "a_tenant_reads_a_webhook_secret" {
  command = plan
  variables {
    forges  = ["github"]
    tenants = { acme = { secrets = ["github"] } }
  }
  expect_failures = [output.names]
}

run "a_forge_nobody_knows" {
  command = plan
  variables {
    forges = ["sourceforge"]
  }
  expect_failures = [var.forges]
}

run "messages_kept_too_long" {
  command = plan
  variables {
    retention = { messages_seconds = 604801 }
  }
  expect_failures = [var.retention]
}

run "messages_kept_too_short" {
  command = plan
  variables {
    retention = { messages_seconds = 599 }
  }
  expect_failures = [var.retention]
}

run "soft_delete_between_0_and_7_days" {
  command = plan
  variables {
    retention = { soft_delete_seconds = 86400 }
  }
  expect_failures = [var.retention]
}

run "records_gone_before_messages" {
  command = plan
  variables {
    retention = { ledger_days = 7 }
  }
  expect_failures = [var.retention]
}

run "dead_after_four" {
  command = plan
  variables {
    delivery = { max_attempts = 4 }
  }
  expect_failures = [var.delivery]
}

run "answers_in_eleven_minutes" {
  command = plan
  variables {
    delivery = { ack_deadline_seconds = 660 }
  }
  expect_failures = [var.delivery]
}

run "backoff_the_wrong_way_round" {
  command = plan
  variables {
    delivery = { minimum_backoff_seconds = 60, maximum_backoff_seconds = 10 }
  }
  expect_failures = [var.delivery]
}

run "key_version" {
  command = plan
  variables {
    kms_key = "projects/p/locations/europe-west1/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
  }
  expect_failures = [var.kms_key]
}

run "key_elsewhere" {
  command = plan
  variables {
    kms_key = "projects/p/locations/us-east1/keyRings/r/cryptoKeys/k"
  }
  expect_failures = [var.kms_key]
}

run "eventarc_to_nowhere" {
  command = plan
  variables {
    launcher     = "elsewhere"
    use_eventarc = true
  }
  expect_failures = [var.use_eventarc]
}

run "prefix_with_eventarc" {
  command = plan
  variables {
    use_eventarc   = true
    watched_prefix = "app/"
  }
  expect_failures = [var.watched_prefix]
}

run "prefix_with_a_leading_slash" {
  command = plan
  variables {
    watched_prefix = "/app/"
  }
  expect_failures = [var.watched_prefix]
}

run "subscriber_with_our_name" {
  command = plan
  variables {
    subscribers = { dispatch = false }
  }
  expect_failures = [output.names]
}
