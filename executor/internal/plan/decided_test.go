package plan

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// decided says of every field that BuildKit's grammar fills in what becomes of
// it: "honoured", "refused" with a message (TestErrors has each), or "not ours"
// for what does not come from the file.
func decided() map[string]string {
	return map[string]string{
		"AddCommand.Checksum": "honoured", "AddCommand.Chmod": "honoured", "AddCommand.Chown": "honoured",
		"AddCommand.ExcludePatterns": "honoured", "AddCommand.KeepGitDir": "honoured", "AddCommand.Link": "honoured",
		"AddCommand.Unpack": "honoured",

		"CopyCommand.Chmod": "honoured", "CopyCommand.Chown": "honoured", "CopyCommand.ExcludePatterns": "honoured",
		"CopyCommand.From": "honoured", "CopyCommand.Link": "honoured", "CopyCommand.Parents": "honoured",

		"SourcesAndDest.DestPath": "honoured", "SourcesAndDest.SourceContents": "honoured", "SourcesAndDest.SourcePaths": "honoured",

		"SourceContent.Data": "honoured", "SourceContent.Expand": "honoured", "SourceContent.Path": "honoured",

		"ArgCommand.Args": "honoured", "KeyValuePairOptional.Key": "honoured", "KeyValuePairOptional.Value": "honoured",
		"KeyValuePairOptional.DocComment": "not ours",

		"EnvCommand.Env": "honoured", "LabelCommand.Labels": "honoured", "LabelCommand.noExpand": "not ours",
		"KeyValuePair.Key": "honoured", "KeyValuePair.Value": "honoured", "KeyValuePair.NoDelim": "honoured",

		"ShellDependantCmdLine.CmdLine": "honoured", "ShellDependantCmdLine.Files": "honoured", // of RUN; refused in CMD and ENTRYPOINT
		"ShellDependantCmdLine.PrependShell": "honoured",
		"ShellInlineFile.Name":               "honoured", "ShellInlineFile.Data": "honoured", "ShellInlineFile.Chomp": "honoured",
		"Mount.Type": "honoured", "Mount.From": "honoured", "Mount.Source": "honoured", "Mount.Target": "honoured",
		"Mount.ReadOnly": "honoured", "Mount.SizeLimit": "honoured", "Mount.CacheID": "honoured", "Mount.CacheSharing": "honoured",
		"Mount.Required": "honoured", "Mount.Env": "honoured", "Mount.Mode": "honoured", "Mount.UID": "honoured", "Mount.GID": "honoured",
		"RunCommand.FlagsUsed": "honoured", // and any flag that is not known here is refused
		"withExternalData.m":   "honoured", // by way of FlagsUsed

		"ExposeCommand.Ports": "honoured", "HealthCheckCommand.Health": "honoured",
		"MaintainerCommand.Maintainer": "honoured", "OnbuildCommand.Expression": "honoured",
		"ShellCommand.Shell": "honoured", "StopSignalCommand.Signal": "honoured", "UserCommand.User": "honoured",
		"VolumeCommand.Volumes": "honoured", "WorkdirCommand.Path": "honoured",

		"withNameAndCode.code": "honoured", "withNameAndCode.comments": "honoured", "withNameAndCode.location": "honoured",
		"withNameAndCode.name": "honoured",

		"HealthcheckConfig.Interval": "honoured", "HealthcheckConfig.Retries": "honoured",
		"HealthcheckConfig.StartInterval": "honoured", "HealthcheckConfig.StartPeriod": "honoured",
		"HealthcheckConfig.Test": "honoured", "HealthcheckConfig.Timeout": "honoured",

		"Stage.BaseName": "honoured", "Stage.Commands": "honoured", "Stage.Comments": "honoured",
		"Stage.DocComment": "not ours", "Stage.Location": "honoured", "Stage.Name": "honoured",
		"Stage.OrigCmd": "honoured", "Stage.Platform": "honoured", "Stage.SourceCode": "honoured",
	}
}

// An upgrade of BuildKit that brings a field to an instruction fails here until
// somebody decides what to do with it: nothing is ignored in silence.
func TestEveryFlagIsDecided(t *testing.T) {
	got := map[string]bool{}
	for _, v := range []any{
		instructions.AddCommand{}, instructions.ArgCommand{}, instructions.CmdCommand{}, instructions.CopyCommand{},
		instructions.EntrypointCommand{}, instructions.EnvCommand{}, instructions.ExposeCommand{},
		instructions.HealthCheckCommand{}, instructions.LabelCommand{}, instructions.MaintainerCommand{}, instructions.Mount{},
		instructions.OnbuildCommand{}, instructions.RunCommand{}, instructions.ShellCommand{}, instructions.Stage{},
		instructions.StopSignalCommand{}, instructions.UserCommand{}, instructions.VolumeCommand{}, instructions.WorkdirCommand{},
	} {
		fields(reflect.TypeOf(v), got)
	}
	want := decided()
	for f := range got {
		if want[f] == "" {
			t.Errorf("%s is neither honoured nor refused: decide in copy.go, run.go or config.go, and here", f)
		}
	}
	for f, what := range want {
		if !got[f] {
			t.Errorf("%s is gone from BuildKit", f)
		}
		if !slices.Contains([]string{"honoured", "refused", "not ours"}, what) {
			t.Errorf("%s is %q", f, what)
		}
	}
}

// fields collects the names of the fields of t and of the structs it holds.
func fields(t reflect.Type, into map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || !strings.Contains(t.PkgPath(), "/instructions") && !strings.Contains(t.PkgPath(), "docker-image-spec") {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.Anonymous {
			into[t.Name()+"."+f.Name] = true
		}
		fields(f.Type, into)
	}
}

// An instruction that BuildKit learns and this package does not know is
// refused, not skipped.
func TestUnknownInstruction(t *testing.T) {
	st := &stageState{}
	_, err := st.effect(command{Command: unknown{}})
	if err == nil || err.Error() != "FUTURE is not supported yet" {
		t.Errorf("got %v", err)
	}
}

type unknown struct{ instructions.Command }

func (unknown) Name() string { return "future" }
