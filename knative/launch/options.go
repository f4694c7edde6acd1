package launch

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Options is the file in which an installation says how its Jobs are made.
type Options struct {
	Template       Template
	PendingTimeout time.Duration
}

// optionsYAML is the form of the file.
type optionsYAML struct {
	Image          string                      `json:"image"`
	Profile        Profile                     `json:"profile"`
	Flags          []string                    `json:"flags"`
	ServiceAccount string                      `json:"serviceAccount"`
	Credentials    string                      `json:"credentials"`
	Env            []corev1.EnvVar             `json:"env"`
	Resources      corev1.ResourceRequirements `json:"resources"`
	Disk           *resource.Quantity          `json:"disk"`
	Queue          string                      `json:"queue"`
	Suspend        bool                        `json:"suspend"`
	AnyNode        bool                        `json:"anyNode"`
	PullPolicy     corev1.PullPolicy           `json:"pullPolicy"`
	Timeout        metav1.Duration             `json:"timeout"`
	KeepFinished   metav1.Duration             `json:"keepFinished"`
	PendingTimeout metav1.Duration             `json:"pendingTimeout"`
}

// ParseOptions reads Options from YAML. A field that is not known is an error.
func ParseOptions(data []byte) (Options, error) {
	var y optionsYAML
	if err := yaml.UnmarshalStrict(data, &y); err != nil {
		return Options{}, fmt.Errorf("read job options: %w", err)
	}
	if y.Image == "" {
		return Options{}, errors.New("read job options: image, that of the executor, is missing")
	}
	if err := y.Profile.valid(); err != nil {
		return Options{}, fmt.Errorf("read job options: %w", err)
	}
	o := Options{
		Template: Template{
			Image: y.Image, Profile: y.Profile, Flags: y.Flags, ServiceAccount: y.ServiceAccount, Credentials: y.Credentials,
			Env: y.Env, Resources: y.Resources, Queue: y.Queue, Suspend: y.Suspend, AnyNode: y.AnyNode, PullPolicy: y.PullPolicy,
			Timeout: y.Timeout.Duration, KeepFinished: y.KeepFinished.Duration,
		},
		PendingTimeout: y.PendingTimeout.Duration,
	}
	if y.Disk != nil {
		o.Template.Disk = *y.Disk
	}
	return o, nil
}
