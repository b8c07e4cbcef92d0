package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	demes "demes.example/client/gen/demes/v1"
)

const textCharsMax = 2048

// story is what the steps hand on.
type story struct {
	ana, ben, cleo  *Person
	people          []*Person
	chatID          string
	texts           []string
	host            *Person
	others          []*Person
	moving, staying *Feed
}

func (s *story) foundAndInvite() error {
	ctx, cancel := limited()
	defer cancel()
	founded, err := s.ana.peer.CreateChat(ctx, &demes.CreateChatRequest{
		Name: "Go", Addresses: []string{s.ben.address, s.cleo.address},
	})
	s.chatID = founded.GetChat().GetChatId()
	return err
}

func (s *story) accept() error {
	for _, guest := range []*Person{s.ben, s.cleo} {
		err := until("an invitation", func(ctx context.Context) (bool, error) {
			list, err := guest.peer.ListInvites(ctx, &demes.ListInvitesRequest{})
			return slices.ContainsFunc(list.GetInvites(), func(invite *demes.Invite) bool {
				// A person would compare this fingerprint with the inviter over another channel.
				return invite.Incoming && invite.ChatId == s.chatID && invite.PeerId == s.ana.peerID
			}), err
		})
		if err != nil {
			return err
		}
		ctx, cancel := limited()
		defer cancel()
		_, err = guest.peer.AcceptInvite(ctx, &demes.AcceptInviteRequest{Chat: s.chatID})
		if err != nil {
			return err
		}
	}
	return until("three voters", func(ctx context.Context) (bool, error) {
		chat, err := s.chat(ctx, s.ana)
		voters := 0
		for _, member := range chat.GetMembers() {
			if member.Voter {
				voters++
			}
		}
		return voters == 3, err
	})
}

func (s *story) chat(ctx context.Context, person *Person) (*demes.Chat, error) {
	got, err := person.peer.GetChat(ctx, &demes.GetChatRequest{Chat: s.chatID})
	return got.GetChat(), err
}

func (s *story) send() error {
	for number := range 12 {
		text := fmt.Sprintf("%d: grüße, 你好, 👋", number+1)
		if _, err := s.people[number%3].send(s.chatID, text, ""); err != nil {
			return err
		}
		s.texts = append(s.texts, text)
	}
	return nil
}

func (s *story) sendOnce() error {
	first, err := s.ben.send(s.chatID, "once", "go-once-1")
	if err != nil {
		return err
	}
	again, err := s.ben.send(s.chatID, "once", "go-once-1")
	if err == nil && first != again {
		err = fmt.Errorf("a repeated request has its first result: %d, not %d", first, again)
	}
	s.texts = append(s.texts, "once")
	return err
}

func (s *story) follow() error {
	ctx, cancel := limited()
	defer cancel()
	chat, err := s.chat(ctx, s.ana)
	if err != nil {
		return err
	}
	for _, person := range s.people {
		if person.peerID == chat.HostPeerId {
			s.host = person
		} else {
			s.others = append(s.others, person)
		}
	}
	if s.host == nil {
		return errors.New("nobody hosts")
	}
	// One reader loses its peer, since that is the host; the other one's peer stays.
	s.moving = follow(s.chatID, append([]*Person{s.host}, s.others...)...)
	s.staying = follow(s.chatID, s.others[0])
	return errors.Join(s.moving.wait(s.texts), s.staying.wait(s.texts))
}

func (s *story) loseTheHost() error {
	before := s.moving.after
	if err := order("KILL", s.host); err != nil {
		return err
	}
	for number := range 5 {
		text := fmt.Sprintf("%d after the loss", number+1)
		if _, err := s.others[number%2].send(s.chatID, text, ""); err != nil {
			return err
		}
		s.texts = append(s.texts, text)
	}
	if err := errors.Join(s.moving.wait(s.texts), s.staying.wait(s.texts)); err != nil {
		return err
	}
	if s.moving.breaks == 0 {
		return errors.New("the reader did not lose its peer")
	}
	if s.staying.breaks > 0 {
		return errors.New("a host change does not end the feed of a member")
	}
	newHost := ""
	for _, event := range s.staying.events {
		if event.Sequence > before && event.GetHost() != nil {
			newHost = event.AuthorPeerId
		}
	}
	if newHost == "" || newHost == s.host.peerID {
		return fmt.Errorf("another member should host, not %q", newHost)
	}
	return nil
}

func (s *story) comeBack() error {
	if err := order("RESTART", s.host); err != nil {
		return err
	}
	back := follow(s.chatID, s.host)
	if err := back.wait(s.texts); err != nil {
		return err
	}
	// The hash of an entry covers all entries before it: equal hashes, equal histories.
	end := int(back.after)
	for _, feed := range []*Feed{s.moving, s.staying, back} {
		feed.cancel()
		end = min(end, int(feed.after))
	}
	for index := range end {
		hash := back.events[index].Hash
		if s.moving.events[index].Hash != hash || s.staying.events[index].Hash != hash {
			return fmt.Errorf("the histories part at %d", index+1)
		}
	}
	return nil
}

func (s *story) pageBackwards() error {
	request := &demes.ListMessagesRequest{
		Chat: s.chatID, PageSize: 5, From: &demes.ListMessagesRequest_Before{Before: 0},
	}
	return s.page(request, func(texts, page []string) []string { return append(page, texts...) })
}

func (s *story) pageForwards() error {
	request := &demes.ListMessagesRequest{
		Chat: s.chatID, PageSize: 7, From: &demes.ListMessagesRequest_After{After: 0},
	}
	return s.page(request, func(texts, page []string) []string { return append(texts, page...) })
}

// page gets all pages, and checks that together they are the chat.
func (s *story) page(request *demes.ListMessagesRequest, join func(texts, page []string) []string) error {
	ctx, cancel := limited()
	defer cancel()
	var texts []string
	for {
		page, err := s.ana.peer.ListMessages(ctx, request)
		if err != nil {
			return err
		}
		var found []string // oldest first, either way
		for _, event := range page.Messages {
			found = append(found, event.GetMessage().GetText())
		}
		texts = join(texts, found)
		if request.PageToken = page.NextPageToken; request.PageToken == "" {
			break
		}
	}
	if !slices.Equal(texts, s.texts) {
		return fmt.Errorf("the pages have %q", texts)
	}
	return nil
}

func (s *story) errors() error {
	_, err := s.ana.send(s.chatID, strings.Repeat("ü", textCharsMax+1), "")
	values, err := expectError(err, codes.InvalidArgument, "TEXT_TOO_LONG")
	if err != nil {
		return err
	}
	if values["characters"] != "2049" || values["characters_max"] != "2048" {
		return fmt.Errorf("the values are %v", values)
	}
	ctx, cancel := limited()
	defer cancel()
	_, err = s.ana.peer.GetChat(ctx, &demes.GetChatRequest{Chat: "Nobody's"})
	if _, err = expectError(err, codes.NotFound, "CHAT_NOT_FOUND"); err != nil {
		return err
	}
	cursor := &demes.FeedCursor{Chat: s.chatID, After: 1_000_000}
	stream, err := s.ana.peer.Feed(ctx, &demes.FeedRequest{Cursors: []*demes.FeedCursor{cursor}})
	if err == nil {
		_, err = stream.Recv()
	}
	_, err = expectError(err, codes.OutOfRange, "CURSOR_AHEAD")
	return err
}

// order has a peer killed or restarted.
func order(command string, person *Person) error {
	return exec.Command(os.Getenv(command), person.peerID).Run()
}

// until waits for a condition.
func until(what string, condition func(context.Context) (bool, error)) error {
	ctx, cancel := limited()
	defer cancel()
	for {
		if found, err := condition(ctx); found || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %s", deadline, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var steps = []struct {
	name string
	run  func(*story) error
}{
	{"founds a chat and invites two people", (*story).foundAndInvite},
	{"they see the invitation and accept it", (*story).accept},
	{"all three send", (*story).send},
	{"a repeated request is sent once", (*story).sendOnce},
	{"two readers follow the feed, until it is live", (*story).follow},
	{"the host is killed: no gap, nothing twice, on either reader", (*story).loseTheHost},
	{"the killed peer comes back and has the same chain of hashes", (*story).comeBack},
	{"pages history from the newest message back", (*story).pageBackwards},
	{"pages history from the oldest message on", (*story).pageForwards},
	{"understands rich errors", (*story).errors},
}

func play(addresses []string) (passed int) {
	var s story
	for _, address := range addresses {
		person, err := meet(address)
		if err != nil {
			fmt.Printf("FAILED  nobody answers at %s: %v\n", address, err)
			return 0
		}
		s.people = append(s.people, person)
	}
	s.ana, s.ben, s.cleo = s.people[0], s.people[1], s.people[2]
	for _, step := range steps {
		begun := time.Now()
		if err := step.run(&s); err != nil { // the steps after this one need it
			fmt.Printf("FAILED  %s: %v\n", step.name, err)
			return passed
		}
		passed++
		fmt.Printf("passed  %s (%.1f s)\n", step.name, time.Since(begun).Seconds())
	}
	return passed
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: client ANA BEN CLEO")
		os.Exit(2)
	}
	passed := play(os.Args[1:])
	fmt.Printf("go: %d passed, %d failed\n", passed, len(steps)-passed)
	if passed < len(steps) {
		os.Exit(1)
	}
}
