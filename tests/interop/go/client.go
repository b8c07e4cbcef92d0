// A complete client of demes in Go: grpc-go, and stubs that buf made from proto/.
//
// Each person runs a peer, and each peer serves that person's programs on a socket. Here one program
// acts for three people, so it talks with three peers:
//
//	client ANA BEN CLEO
//
// with where each serves programs, such as `unix:/home/ana/.local/share/demes/client.sock`. (On
// loopback, a program would show the token beside it: the metadata `authorization`, `Bearer TOKEN`.)
// What it does, in this order, is steps at the end of story.go. For the loss of the host it needs
// help: it runs `$KILL PEERID` and `$RESTART PEERID`, which tests/interop/run.sh gives it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	demes "demes.example/client/gen/demes/v1"
)

const deadline = 30 * time.Second

// limited is the context of a call that must not take for ever.
func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), deadline)
}

// Person is somebody's peer, as that person's programs see it.
type Person struct {
	peer                  demes.ClientServiceClient
	peerID, name, address string
}

func meet(clientAddress string) (*Person, error) {
	// A peer that was away for a while is tried again soon.
	reconnect := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}
	connection, err := grpc.NewClient(clientAddress,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(reconnect))
	if err != nil {
		return nil, err
	}
	ctx, cancel := limited()
	defer cancel()
	peer := demes.NewClientServiceClient(connection)
	me, err := peer.GetPeer(ctx, &demes.GetPeerRequest{})
	if err != nil {
		return nil, err
	}
	return &Person{peer: peer, peerID: me.PeerId, name: me.Name, address: me.Address}, nil
}

// send sends, and returns the message's sequence once a majority has it on disk.
func (p *Person) send(chatID, text, requestID string) (uint64, error) {
	ctx, cancel := limited()
	defer cancel()
	sent, err := p.peer.SendMessage(ctx, &demes.SendMessageRequest{
		Chat: chatID, Text: text, RequestId: requestID, Wait: demes.Wait_WAIT_COMMITTED,
	})
	return sent.GetSequence(), err
}

// Feed follows a chat in a goroutine, through whatever happens to its peers.
//
// A sequence means the same at every peer. So the cursor is one number, and where one peer is gone the
// reader goes on at the next one; it checks that nothing is missing and nothing comes twice.
type Feed struct {
	chatID string
	people []*Person
	cancel context.CancelFunc

	mutex    sync.Mutex
	after    uint64 // the cursor: the last sequence that is here
	events   []*demes.Event
	caughtUp bool
	breaks   int
	problem  error
	changed  chan struct{} // closed and made anew when something comes
}

func follow(chatID string, people ...*Person) *Feed {
	ctx, cancel := context.WithCancel(context.Background())
	feed := &Feed{chatID: chatID, people: people, cancel: cancel, changed: make(chan struct{})}
	go feed.run(ctx)
	return feed
}

func (f *Feed) run(ctx context.Context) {
	for turn := 0; ; turn++ {
		err := f.read(ctx, f.people[turn%len(f.people)])
		if ctx.Err() != nil {
			return
		}
		switch code := status.Code(err); {
		case code == codes.Unavailable || errors.Is(err, io.EOF):
		case code == codes.OutOfRange: // CURSOR_AHEAD: that peer has not heard of it yet, and will
		default:
			f.update(func() { f.problem = err })
			return
		}
		f.update(func() { f.breaks++ })
		select {
		case <-ctx.Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (f *Feed) read(ctx context.Context, person *Person) error {
	f.mutex.Lock()
	cursor := &demes.FeedCursor{Chat: f.chatID, After: f.after}
	f.mutex.Unlock()
	stream, err := person.peer.Feed(ctx, &demes.FeedRequest{Cursors: []*demes.FeedCursor{cursor}})
	if err != nil {
		return err
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		f.update(func() {
			for _, event := range response.Events {
				if err = f.take(event); err != nil {
					return
				}
			}
		})
		if err != nil {
			return err
		}
	}
}

func (f *Feed) take(event *demes.Event) error {
	if event.GetCaughtUp() != nil {
		f.caughtUp = true
	}
	if event.Sequence == 0 {
		return nil // CaughtUp and Progress are no part of the chat
	}
	if event.Sequence != f.after+1 {
		return fmt.Errorf("after %d came %d", f.after, event.Sequence)
	}
	f.after = event.Sequence
	f.events = append(f.events, event)
	return nil
}

func (f *Feed) update(change func()) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// wait waits until exactly these texts have come, and what was missed is here.
func (f *Feed) wait(texts []string) error {
	timer := time.After(deadline)
	for {
		f.mutex.Lock()
		problem, changed := f.problem, f.changed
		found := f.caughtUp && slices.Equal(f.texts(), texts)
		f.mutex.Unlock()
		if problem != nil || found {
			return problem
		}
		select {
		case <-changed:
		case <-timer:
			return fmt.Errorf("it did not come within %v; the feed has %q", deadline, f.texts())
		}
	}
}

func (f *Feed) texts() []string {
	var texts []string
	for _, event := range f.events {
		if message := event.GetMessage(); message != nil {
			texts = append(texts, message.Text)
		}
	}
	return texts
}

// richError is the google.rpc.ErrorInfo of a failed call: a reason for programs, with its values.
func richError(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// expectError checks that a call has failed like that; it returns the values that come with the reason.
func expectError(err error, code codes.Code, reason string) (map[string]string, error) {
	info := richError(err)
	if status.Code(err) != code || info.GetDomain() != "demes" || info.GetReason() != reason {
		return nil, fmt.Errorf("%v %s was expected, and this came: %w", code, reason, err)
	}
	return info.Metadata, nil
}
