output "contexts" {
  description = "Name of the bucket that is watched for uploads."
  value       = google_storage_bucket.contexts.name
}

output "ledger" {
  description = "Name of the bucket with the records of builds, once those may use it who need it."
  value       = google_storage_bucket.ledger.name
  depends_on  = [google_storage_bucket_iam_member.this]
}
