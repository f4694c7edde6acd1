// Package sqs fetches messages from a queue of Amazon SQS, to which S3 sends its
// notifications, itself or by SNS or EventBridge. A message is deleted once it
// was handled; one that could not be shows again after a pause that grows, and
// goes to the dead-letter queue of the queue's redrive policy when it came too
// often.
package sqs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/infra/wait"
)

const (
	batch       = 10               // messages of one answer, as many as SQS gives
	visibility  = 60 * time.Second // for which a message that is being handled is not given to others
	maxPause    = 5 * time.Minute  // before a message that could not be handled shows again
	defaultWait = 20 * time.Second // for a message to come, as long as SQS waits
)

// Options of a Puller. Queue and Deliver are required.
type Options struct {
	Queue string // URL of the queue
	// Deliver handles the text of a message. Nil says that it may be deleted.
	Deliver func(ctx context.Context, h http.Header, body []byte) error
	// Region of the queue; empty is what the environment says.
	Region string
	// Endpoint is the address of a server that is not Amazon's; empty is
	// Amazon's, or what the environment says.
	Endpoint string
	// Credentials; nil is what Amazon's own tools find.
	Credentials aws.CredentialsProvider
	// Wait is how long a request waits for messages; 0 is 20 s.
	Wait time.Duration
	// Pause is waited when the queue cannot be asked; 0 is 5 s.
	Pause time.Duration
	Log   *slog.Logger // nil discards
}

// Puller fetches messages.
type Puller struct {
	client *sqs.Client
	opts   Options
}

// Open returns a Puller. ctx is for finding credentials.
func Open(ctx context.Context, o Options) (*Puller, error) {
	if o.Queue == "" || o.Deliver == nil {
		return nil, errors.New("to pull from SQS takes the URL of a queue and someone to deliver to")
	}
	if o.Wait <= 0 {
		o.Wait = defaultWait
	}
	if o.Pause <= 0 {
		o.Pause = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var load []func(*config.LoadOptions) error
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(o.Credentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open queue %s: %w", o.Queue, err)
	}
	if cfg.Region == "" {
		return nil, fmt.Errorf("open queue %s: its region is not known; set AWS_REGION", o.Queue)
	}
	client := sqs.NewFromConfig(cfg, func(opts *sqs.Options) {
		if o.Endpoint != "" {
			opts.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	return &Puller{client: client, opts: o}, nil
}

// Run fetches and delivers until the context ends, ten messages at a time at
// most. A queue that cannot be asked is asked again.
func (p *Puller) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		messages, err := p.receive(ctx)
		if err != nil && ctx.Err() == nil {
			p.opts.Log.Warn("queue cannot be asked; trying again", "queue", p.opts.Queue, "err", err)
			_ = wait.For(ctx, p.opts.Pause) // the loop asks ctx itself
		}
		var group errgroup.Group
		for _, m := range messages {
			group.Go(func() error {
				p.handle(ctx, m)
				return nil
			})
		}
		_ = group.Wait() // what became of each message was said
	}
	return nil
}

func (p *Puller) receive(ctx context.Context) ([]types.Message, error) {
	out, err := p.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &p.opts.Queue, MaxNumberOfMessages: batch,
		WaitTimeSeconds: int32(p.opts.Wait.Seconds()), VisibilityTimeout: int32(visibility.Seconds()),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
	})
	if err != nil {
		return nil, err
	}
	return out.Messages, nil
}

// handle delivers a message and deletes it, or lets it show again later. If
// neither can be said to the queue, it shows again by itself.
func (p *Puller) handle(ctx context.Context, m types.Message) {
	err := p.opts.Deliver(ctx, http.Header{"Content-Type": {"application/json"}}, []byte(aws.ToString(m.Body)))
	log := p.opts.Log.With("queue", p.opts.Queue, "message", aws.ToString(m.MessageId))
	// What was handled is deleted also when the program is asked to end.
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		_, err := p.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &p.opts.Queue, ReceiptHandle: m.ReceiptHandle})
		if err != nil {
			log.Warn("delete message; it will come again", "err", err)
		}
		return
	}
	wait := pause(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	log.Warn("message will come again", "pause", wait, "err", err)
	_, err = p.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &p.opts.Queue, ReceiptHandle: m.ReceiptHandle, VisibilityTimeout: int32(wait.Seconds()),
	})
	if err != nil {
		log.Warn("let message show again", "err", err)
	}
}

// pause is how long a message that came so often is not shown: a second, doubled
// each time.
func pause(count string) time.Duration {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		n = 1
	}
	return min(time.Second<<min(n-1, 20), maxPause)
}
