package bucket

import (
	"github.com/johannesboyne/gofakes3"
)

// VersioningConfiguration implements gofakes3.VersionedBackend. Every bucket
// keeps versions.
func (b *s3Backend) VersioningConfiguration(bucket string) (gofakes3.VersioningConfiguration, error) {
	if !b.store.HasBucket(bucket) {
		return gofakes3.VersioningConfiguration{}, gofakes3.BucketNotFound(bucket)
	}
	return gofakes3.VersioningConfiguration{Status: gofakes3.VersioningEnabled}, nil
}

// SetVersioningConfiguration implements gofakes3.VersionedBackend.
func (b *s3Backend) SetVersioningConfiguration(bucket string, v gofakes3.VersioningConfiguration) error {
	if !b.store.HasBucket(bucket) {
		return gofakes3.BucketNotFound(bucket)
	}
	if !v.Enabled() {
		return gofakes3.ErrorMessage(gofakes3.ErrIllegalVersioningConfiguration, "every bucket here keeps versions; it cannot be switched off")
	}
	return nil
}

// GetObjectVersion implements gofakes3.VersionedBackend.
func (b *s3Backend) GetObjectVersion(bucket, name string, version gofakes3.VersionID, rng *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	return b.open(bucket, name, string(version), rng)
}

// HeadObjectVersion implements gofakes3.VersionedBackend.
func (b *s3Backend) HeadObjectVersion(bucket, name string, version gofakes3.VersionID) (*gofakes3.Object, error) {
	o, err := b.store.Stat(bucket, name, string(version))
	if err != nil {
		return nil, b.fail(err, bucket, name)
	}
	return describe(o), nil
}

// DeleteObjectVersion implements gofakes3.VersionedBackend.
func (b *s3Backend) DeleteObjectVersion(bucket, name string, version gofakes3.VersionID) (gofakes3.ObjectDeleteResult, error) {
	o, err := b.store.Delete(bucket, name, string(version))
	if err != nil {
		return gofakes3.ObjectDeleteResult{}, b.fail(err, bucket, name)
	}
	return gofakes3.ObjectDeleteResult{IsDeleteMarker: o.Deleted, VersionID: gofakes3.VersionID(o.Generation)}, nil
}

// DeleteMultiVersions implements gofakes3.VersionedBackend.
func (b *s3Backend) DeleteMultiVersions(bucket string, ids ...gofakes3.ObjectID) (gofakes3.MultiDeleteResult, error) {
	var res gofakes3.MultiDeleteResult
	for _, id := range ids {
		if _, err := b.store.Delete(bucket, id.Key, id.VersionID); err != nil {
			failed := gofakes3.ErrorResultFromError(b.fail(err, bucket, id.Key))
			failed.Key = id.Key
			res.Error = append(res.Error, failed)
			continue
		}
		res.Deleted = append(res.Deleted, id)
	}
	return res, nil
}

// ListBucketVersions implements gofakes3.VersionedBackend.
func (b *s3Backend) ListBucketVersions(bucket string, prefix *gofakes3.Prefix, page *gofakes3.ListBucketVersionsPage) (*gofakes3.ListBucketVersionsResult, error) {
	if prefix == nil {
		prefix = &gofakes3.Prefix{}
	}
	if page == nil {
		page = &gofakes3.ListBucketVersionsPage{}
	}
	all, err := b.store.versions(bucket, prefix.Prefix, false)
	if err != nil {
		return nil, b.fail(err, bucket, "")
	}
	res := gofakes3.NewListBucketVersionsResult(bucket, prefix, page)
	var before Object
	for _, o := range all {
		newest := o.Name != before.Name
		before = o
		var match gofakes3.PrefixMatch
		if !prefix.Match(o.Name, &match) || !afterMarker(o, page) {
			continue
		}
		if match.CommonPrefix {
			res.AddPrefix(match.MatchedPart)
			continue
		}
		if page.MaxKeys > 0 && int64(len(res.Versions)) >= page.MaxKeys {
			res.IsTruncated = true
			break
		}
		res.NextKeyMarker, res.NextVersionIDMarker = o.Name, gofakes3.VersionID(o.Generation)
		res.Versions = append(res.Versions, versionItem(o, newest))
	}
	if !res.IsTruncated {
		res.NextKeyMarker, res.NextVersionIDMarker = "", ""
	}
	return res, nil
}

// afterMarker reports whether o comes after the page's marker; versions of one
// name go from new to old.
func afterMarker(o Object, page *gofakes3.ListBucketVersionsPage) bool {
	switch {
	case !page.HasKeyMarker || o.Name > page.KeyMarker:
		return true
	case o.Name < page.KeyMarker:
		return false
	default:
		return page.HasVersionIDMarker && o.Generation < string(page.VersionIDMarker)
	}
}

func versionItem(o Object, newest bool) gofakes3.VersionItem {
	made := gofakes3.NewContentTime(o.Created)
	if o.Deleted {
		return &gofakes3.DeleteMarker{Key: o.Name, VersionID: gofakes3.VersionID(o.Generation), IsLatest: newest, LastModified: made}
	}
	return &gofakes3.Version{
		Key: o.Name, VersionID: gofakes3.VersionID(o.Generation), IsLatest: newest,
		LastModified: made, Size: o.Size, ETag: `"` + o.MD5 + `"`,
	}
}
