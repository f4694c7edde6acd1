package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease that the dispatchers of a namespace hold in turn.
const leaseName = "kiln-finisher"

// errNotLeading is why what a leader does ends.
var errNotLeading = errors.New("another dispatcher leads")

// election chooses, of several dispatchers, the one that follows Jobs and sweeps.
// Were there two for a moment, nothing would happen twice: it only saves work.
type election struct {
	client    kubernetes.Interface
	namespace string
	log       *slog.Logger
}

// lead runs work whenever this process is the leader, until ctx ends. work must
// end when its context does.
func (e election) lead(ctx context.Context, work func(context.Context) error) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("elect a leader: %w", err)
	}
	identity := host + "_" + string(uuid.NewUUID())
	failed := make(chan error, 1)
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Name: leaseName, Namespace: e.namespace},
				Client:     e.client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
			},
			LeaseDuration: leadFor, RenewDeadline: leadFor * 2 / 3, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(ctx context.Context) {
					e.log.Info("leading", "identity", identity)
					if err := work(ctx); err != nil && ctx.Err() == nil {
						failed <- err
					}
				},
				OnStoppedLeading: func() { e.log.Info("not leading", "identity", identity) },
			},
		})
		if err != nil {
			return fmt.Errorf("elect a leader: %w", err)
		}
		running, stop := context.WithCancelCause(ctx)
		ended := make(chan struct{})
		go func() { elector.Run(running); close(ended) }()
		select {
		case err := <-failed:
			stop(err)
			<-ended
			return err
		case <-ended:
			stop(errNotLeading)
		}
	}
	return nil
}
