// Package record says what is kept in the ledger and under which key. It is
// shared by those that write the records and those that show them.
//
//	builds/<id>/request.json   the request; created once
//	builds/<id>/result.json    the claimed outcome; created once, verified once
//	builds/<id>/emitted.json   that the terminal event was published
//	builds/<id>/log.gz         what its executor said on a cluster, events.Progress as JSON lines, gzip
//	builds/<part>/request.json the request of one platform of a build, with the id of events.PartID
//	builds/<part>/result.json  what became of it
//	builds/<part>/log.gz       what its executor said
//	open/<group>/<id>.json     a build that is not finished; deleted after emitted.json
//	index/<reverse ms>-<id>    all builds, newest first
//	refs/<tenant>/<hash>.json  where a ref stands, for one trigger
//	objs/<tenant>/<hash>.json  which generation of an object was built, for one trigger
//	tags/<hash>.json           which build a tag of an image belongs to
//	based/<register>.json      which images the newest build of a ref or object stands on
//	bases/<image>/<register>   that a ref or object may stand on an image
//	later/<hash>.json          a build that is to be repeated when its time comes
//	rates/<hash>.json          when the next rebuild of a trigger may be
//	times/<hash>.json          when a schedule last came to its time
//	heads/<hash>.json          where the refs of a repository were when last asked
//	same/<hash>.json           the image of a commit that was built, for the same asked again
//	statuses/<hash>.json       which build last told a forge of a commit
//	outcomes/<hash>.json       how the newest build of a group ended
//	builds/<id>/told-<name>    that a notification was sent
//	poison/<date>/<hash>.json  a request that could not be read
//	refused/<hash>.json        an event that a sink refused for good
//	data/<sha256>.json         the data of an event that was too large for its message
//	removed/logs.json          of which builds the logs were removed
package record

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// Register is where a ref or an object stands for one trigger: the change that
// was accepted last.
type Register struct {
	Location   string    `json:"location"`
	Name       string    `json:"name"`
	Head       string    `json:"head"`                // git: object id, empty once the ref is deleted; object: generation
	Order      string    `json:"order,omitempty"`     // object: as in events.Change
	Sequence   uint64    `json:"sequence"`            // grows with every change that is to be built, also over a deletion
	BuildID    string    `json:"buildId,omitempty"`   // of the last change that is to be built
	Skipped    string    `json:"skipped,omitempty"`   // why the change that led to Head is not built
	ChangeTime time.Time `json:"changeTime,omitzero"` // of the last change, as its sender says
	Updated    time.Time `json:"updated,omitzero"`    // when it was accepted

	Trigger string        `json:"trigger,omitempty"`
	Tenant  string        `json:"tenant,omitempty"`
	Change  events.Change `json:"change,omitzero"`   // the last that is to be built
	Nonce   uint64        `json:"nonce,omitempty"`   // of the last build of that change
	Repeats []Repeat      `json:"repeats,omitempty"` // the latest, at most MaxRepeats
}

// MaxRepeats is how many of the reasons to build again a register remembers.
const MaxRepeats = 32

// Repeat is a reason for which the same change was built again.
type Repeat struct {
	Cause   string `json:"cause"`
	BuildID string `json:"buildId"`
}

// Based says which images the newest successful build of a ref or object
// stands on.
type Based struct {
	Register string            `json:"register"` // key of the register
	Trigger  string            `json:"trigger"`
	Tenant   string            `json:"tenant"`
	BuildID  string            `json:"buildId"`
	Sequence uint64            `json:"sequence"`
	Nonce    uint64            `json:"nonce,omitempty"`
	Images   map[string]string `json:"images"` // digest by "host/repository:tag"
}

// Later is a build that is to be repeated when its time comes.
type Later struct {
	Register string    `json:"register"` // key of the register
	Cause    string    `json:"cause"`
	Priority string    `json:"priority"`
	Due      time.Time `json:"due"`
}

// Rate is when the next rebuild of a trigger may be.
type Rate struct {
	Next time.Time `json:"next"`
}

// Times is when a schedule last came to its time.
type Times struct {
	Last time.Time `json:"last"`
}

// Heads is where the refs of a repository were.
type Heads struct {
	At   time.Time         `json:"at"`
	Refs map[string]string `json:"refs"`
}

// Claim is the outcome of a build as it is kept: a result, and whether its
// digest was seen in the registry by someone who is trusted.
type Claim struct {
	events.Result
	Verified bool `json:"verified,omitempty"`
}

// Emitted says that the terminal event of a build was published.
type Emitted struct {
	At        time.Time `json:"at"`
	EventID   string    `json:"eventId"`
	TagsMoved []string  `json:"tagsMoved,omitempty"`
}

// Open is a build that is not finished. It is written before the register, so
// that what the register names can always be found again.
type Open struct {
	Request events.Request `json:"request"`           // its Attempt is that of the last launch
	Problem string         `json:"problem,omitempty"` // why the request cannot be built
}

// Tag is which build a tag belongs to: the newest that asked for it.
type Tag struct {
	Repository  string    `json:"repository"`
	Tag         string    `json:"tag"`
	Digest      string    `json:"digest"`
	BuildID     string    `json:"buildId"`
	Tenant      string    `json:"tenant"`
	Group       string    `json:"group"`
	Sequence    uint64    `json:"sequence"`
	Nonce       uint64    `json:"nonce,omitempty"`
	RequestedAt time.Time `json:"requestedAt"`
}

// Poison is a request that could not be read, kept for people.
type Poison struct {
	Door   string            `json:"door"`   // where it arrived
	Reason string            `json:"reason"` // what is wrong with it
	At     time.Time         `json:"at"`
	Header map[string]string `json:"header"` // without credentials and signatures
	Body   []byte            `json:"body"`   // base64; the beginning if Cut
	Cut    bool              `json:"cut,omitempty"`
}

// Refused is an event that a sink refused for good, kept for people.
type Refused struct {
	At     time.Time   `json:"at"`
	Status int         `json:"status"`
	Answer string      `json:"answer"`
	Event  event.Event `json:"event"`
}

// Prefixes of keys that are listed.
const (
	BuildsPrefix = "builds/"
	OpenPrefix   = "open/"
	IndexPrefix  = "index/"
)

// RequestKey is the key of a build's request.
func RequestKey(id string) string { return BuildsPrefix + id + "/request.json" }

// ResultKey is the key of a build's claim.
func ResultKey(id string) string { return BuildsPrefix + id + "/result.json" }

// EmittedKey is the key of the mark that a build's event was published.
func EmittedKey(id string) string { return BuildsPrefix + id + "/emitted.json" }

// LogKey is the key of what the executor of a build, or of one platform of it, said.
func LogKey(id string) string { return BuildsPrefix + id + "/log.gz" }

// GroupPrefix begins the keys of the open builds of a group.
func GroupPrefix(tenant, group string) string {
	return OpenPrefix + hash("group", tenant, group) + "/"
}

// OpenKey is the key of an open build; a part's is that of the whole.
func OpenKey(req events.Request) string {
	return GroupPrefix(req.Tenant, req.Group) + req.Whole() + ".json"
}

// OpenBuildID is the build id in a key that begins with OpenPrefix.
func OpenBuildID(key string) string { return strings.TrimSuffix(path.Base(key), ".json") }

// IndexKey is the key that lists a build: ascending keys are descending times.
func IndexKey(req events.Request) string {
	return fmt.Sprintf("%s%019d-%s", IndexPrefix, math.MaxInt64-max(0, req.RequestedAt.UnixMilli()), req.BuildID)
}

// IndexBuildID is the build id in a key that begins with IndexPrefix.
func IndexBuildID(key string) string { return key[strings.LastIndexByte(key, '-')+1:] }

// IndexTime is when the build was requested, in milliseconds, that a key which begins
// with IndexPrefix lists; the zero time if it is no such key.
func IndexTime(key string) time.Time {
	digits, _, _ := strings.Cut(strings.TrimPrefix(key, IndexPrefix), "-")
	reverse, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || reverse < 0 {
		return time.Time{}
	}
	return time.UnixMilli(math.MaxInt64 - reverse).UTC()
}

// RegisterKey is the key of the register of a change's ref or object for a
// trigger.
func RegisterKey(tenant, trigger string, c events.Change) string {
	prefix := "objs/"
	if c.Kind == events.KindGit {
		prefix = "refs/"
	}
	return prefix + tenant + "/" + hash("register", trigger, c.Location, c.Name) + ".json"
}

// TagKey is the key of the register of a tag.
func TagKey(repository, tag string) string { return "tags/" + hash("tag", repository, tag) + ".json" }

// RefusedKey is the key of an event that a sink refused.
func RefusedKey(e event.Event) string {
	return RefusedPrefix + hash("refused", e.Source(), e.ID()) + ".json"
}

// DataKey is the key of an event's data, the same for the same bytes.
func DataKey(data []byte) string {
	sum := sha256.Sum256(data)
	return "data/" + hex.EncodeToString(sum[:]) + ".json"
}

// PoisonKey is the key of a request that could not be read, the same for the
// same bytes on the same day.
func PoisonKey(p Poison) string {
	return "poison/" + p.At.UTC().Format(time.DateOnly) + "/" + hash(p.Door, string(p.Body)) + ".json"
}

// LogsRemoved says how far the removal of old logs has come.
type LogsRemoved struct {
	After string `json:"after"` // of the builds that are listed after this key there is no log
}

// LogsRemovedKey is the key of LogsRemoved.
const LogsRemovedKey = "removed/logs.json"

// Same is what was built of a commit.
type Same struct {
	BuildID string        `json:"buildId"`
	At      time.Time     `json:"at"`
	Result  events.Result `json:"result"`
}

// SameKey is the key of what was built of the same commit in the same way.
func SameKey(req events.Request) string {
	parts := []string{
		"same", req.Tenant, req.Trigger, req.Change.Location, req.Change.Revision(), req.ContextSubPath, req.Dockerfile, req.Target, req.Image, req.Platform, strings.Join(req.Platforms, ","),
	}
	for _, m := range []map[string]string{req.Args, req.Labels} {
		parts = append(parts, fmt.Sprint(len(m)))
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, k, m[k])
		}
	}
	return "same/" + hash(parts...) + ".json"
}

// Status is which build last told a forge of a commit, and what.
type Status struct {
	BuildID  string `json:"buildId"`
	Sequence uint64 `json:"sequence"`
	Nonce    uint64 `json:"nonce,omitempty"`
	Phase    int    `json:"phase"` // 1: it runs; 2: it has finished
}

// Outcome is how the newest build of a group ended.
type Outcome struct {
	BuildID  string         `json:"buildId"`
	Sequence uint64         `json:"sequence"`
	Nonce    uint64         `json:"nonce,omitempty"`
	Outcome  events.Outcome `json:"outcome"`
	Changed  bool           `json:"changed"` // whether the one before ended otherwise
}

// StatusKey is the key of what was told of the commit of a request, for its
// trigger and its ref: sequences of different refs say nothing about each other.
func StatusKey(req events.Request) string {
	return "statuses/" + hash("status", req.Tenant, req.Trigger, req.Change.Location, req.Change.Name, req.Change.Revision()) + ".json"
}

// OutcomeKey is the key of how the newest build of a request's group ended.
func OutcomeKey(req events.Request) string {
	return "outcomes/" + hash("outcome", req.Tenant, req.Group) + ".json"
}

// NotifiedKey says that a notification about a build was sent.
func NotifiedKey(id, name string) string { return BuildsPrefix + id + "/told-" + name }

// Prefixes of keys of what happens without a change.
const (
	LaterPrefix   = "later/"
	PoisonPrefix  = "poison/"
	RefusedPrefix = "refused/"
)

// BasedKey is the key of what a register's newest build stands on.
func BasedKey(register string) string { return "based/" + hash("based", register) + ".json" }

// BasesPrefix begins the keys of those that may stand on an image.
func BasesPrefix(image string) string { return "bases/" + hash("base", image) + "/" }

// BasesKey says that the register may stand on the image; its value is the key
// of the register.
func BasesKey(image, register string) string { return BasesPrefix(image) + hash("based", register) }

// LaterKey is the key of a repetition that waits.
func LaterKey(register, cause string) string {
	return LaterPrefix + hash("later", register, cause) + ".json"
}

// RateKey is the key of a trigger's rate.
func RateKey(tenant, trigger string) string {
	return "rates/" + hash("rate", tenant, trigger) + ".json"
}

// TimesKey is the key of a schedule.
func TimesKey(tenant, trigger, cron, location, name string) string {
	return "times/" + hash("times", tenant, trigger, cron, location, name) + ".json"
}

// HeadsKey is the key of a repository's refs, as a trigger follows them.
func HeadsKey(tenant, trigger, location string) string {
	return "heads/" + hash("heads", tenant, trigger, location) + ".json"
}

// hash is 40 hex digits that tell lists of parts apart.
func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s,", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}

// Getter is the part of a ledger that Load needs.
type Getter interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
}

// Load reads the value of a key into v, which is a pointer, and returns its
// version. The error wraps fs.ErrNotExist if there is none.
func Load(ctx context.Context, ledger Getter, key string, v any) (version string, err error) {
	data, version, err := ledger.Get(ctx, key)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return "", fmt.Errorf("read ledger key %s: %w", key, err)
	}
	return version, nil
}

// Encode writes a record as it is stored.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return data, nil
}
