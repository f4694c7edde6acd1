package fake

// projectTypes are services of a project and roles on it.
func projectTypes() []spec {
	return []spec{
		{
			name: "google_project_service", id: "{project}/{service}",
			body: of(
				req("service", text).like(`^[a-z0-9.-]+\.googleapis\.com$`), project(),
				opt("disable_on_destroy", flag).or(true), opt("disable_dependent_services", flag),
				opt("check_if_service_has_usage_on_destroy", flag),
			),
		},
		{
			name: "google_project_iam_member", id: "{project}/{role}/{member}",
			body: member(req("project", text)),
		},
		{
			name: "google_kms_crypto_key_iam_member", id: "{crypto_key_id}/{role}/{member}",
			body: member(req("crypto_key_id", text).like(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$`)),
		},
	}
}

// identityTypes are service accounts and who may act as them.
func identityTypes() []spec {
	return []spec{
		{
			name: "google_service_account", id: "projects/{project}/serviceAccounts/{account_id}@{project}.iam.gserviceaccount.com",
			api: "iam.googleapis.com",
			set: map[string]string{
				"email":  "{account_id}@{project}.iam.gserviceaccount.com",
				"member": "serviceAccount:{account_id}@{project}.iam.gserviceaccount.com",
				"name":   "projects/{project}/serviceAccounts/{account_id}@{project}.iam.gserviceaccount.com",
			},
			body: of(
				req("account_id", text).like(`^[a-z](?:[-a-z0-9]{4,28}[a-z0-9])$`), project(),
				opt("display_name", text), opt("description", text).like(`^.{0,256}$`), opt("disabled", flag),
				opt("create_ignore_already_exists", flag),
				out("email", text), out("name", text), out("unique_id", text), out("member", text),
			),
		},
		{
			name: "google_service_account_iam_member", id: "{service_account_id}/{role}/{member}",
			api:  "iam.googleapis.com",
			body: member(req("service_account_id", text).like(`^projects/[^/]+/serviceAccounts/[^/]+$`)),
		},
	}
}

// dataSpecs are the data types.
func dataSpecs() []spec {
	return []spec{
		{
			name: "google_project", id: "projects/{project_id}",
			set:  map[string]string{"number": projectNumber, "name": "{project_id}"},
			body: of(may("project_id", text), out("number", text), out("name", text)),
		},
		{
			name: "google_storage_project_service_account", id: gcsAgent,
			set:  map[string]string{"email_address": gcsAgent, "member": "serviceAccount:" + gcsAgent},
			body: of(project(), opt("user_project", text), out("email_address", text), out("member", text)),
		},
	}
}
