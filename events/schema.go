package events

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed schemas/*.json
var schemaFiles embed.FS

// Schemas returns the JSON Schemas (draft 2020-12) of this package's JSON, one
// file each, named as SchemaName says; "request.v1.json", "result.v1.json",
// "progress.v1.json" and "common.v1.json" besides. They refer to each other by
// file name. They allow unknown fields, as a reader must; those of files that
// people write, "kiln.v1.json" and "kiln.narrow.v1.json", allow none.
func Schemas() fs.FS {
	sub, err := fs.Sub(schemaFiles, "schemas")
	if err != nil {
		return schemaFiles // cannot be: the name is constant and valid
	}
	return sub
}

// SchemaName is the file in Schemas that describes the data of events of a
// type: "build.finished.v1.json".
func SchemaName(eventType string) string {
	return strings.TrimPrefix(eventType, "dev.kilnhook.") + ".json"
}
