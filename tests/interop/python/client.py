"""A complete client of demes in Python: grpcio, and stubs that grpcio-tools made from proto/.

Each person runs a peer, and each peer serves that person's programs on a socket. Here one program acts
for three people, so it talks with three peers:

    client.py ANA BEN CLEO

with where each serves programs, such as `unix:/home/ana/.local/share/demes/client.sock`. (On loopback, a
program would show the token beside it: the metadata `authorization`, `Bearer TOKEN`.) What it does, in
this order, is `STEPS` at the end. For the loss of the host it needs help: it runs `$KILL PEERID` and
`$RESTART PEERID`, which tests/interop/run.sh gives it.
"""

import os
import subprocess
import sys
import threading
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from demes.v1 import client_pb2 as demes
from demes.v1 import client_pb2_grpc

DEADLINE_S = 30
TEXT_CHARS_MAX = 2048


class Person:
    """Somebody's peer, as that person's programs see it."""

    def __init__(self, client_address):
        self.client_address = client_address
        # A peer that was away for a while is tried again soon. On a socket grpcio would name the peer
        # by the socket's path, which is no name of a host.
        options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.default_authority", "localhost")]
        self.channel = grpc.insecure_channel(client_address, options)
        self.peer = client_pb2_grpc.ClientServiceStub(self.channel)
        me = self.peer.GetPeer(demes.GetPeerRequest(), timeout=DEADLINE_S)
        self.peer_id, self.name, self.address = me.peer_id, me.name, me.address

    def send(self, chat_id, text, request_id=""):
        """Sends, and returns the message's sequence once a majority has it on disk."""
        request = demes.SendMessageRequest(
            chat=chat_id, text=text, request_id=request_id, wait=demes.WAIT_COMMITTED
        )
        return self.peer.SendMessage(request, timeout=DEADLINE_S).sequence


class Feed:
    """Follows a chat in a thread of its own, through whatever happens to its peers.

    A sequence means the same at every peer. So the cursor is one number, and where one peer is gone
    the reader goes on at the next one; it checks that nothing is missing and nothing comes twice.
    """

    def __init__(self, chat_id, people):
        self.chat_id, self.people = chat_id, people
        self.after = 0  # the cursor: the last sequence that is here
        self.events = []
        self.caught_up = threading.Event()
        self.breaks = 0
        self.problem = None
        self.call = None
        self.stopped = False
        self.changed = threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        turn = 0
        while not self.stopped:
            try:
                self.read(self.people[turn % len(self.people)])
            except grpc.RpcError as error:
                if self.stopped:
                    return
                if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                    pass  # CURSOR_AHEAD: that peer has not heard of it yet, and will
                elif error.code() != grpc.StatusCode.UNAVAILABLE:
                    self.fail(str(error))
                    return
                self.breaks += 1
                turn += 1
                time.sleep(0.05)
            except ValueError as error:
                self.fail(str(error))
                return

    def read(self, person):
        cursor = demes.FeedCursor(chat=self.chat_id, after=self.after)
        self.call = person.peer.Feed(demes.FeedRequest(cursors=[cursor]))
        for response in self.call:
            with self.changed:
                for event in response.events:
                    self.take(event)
                self.changed.notify_all()

    def take(self, event):
        kind = event.WhichOneof("kind")
        if kind == "caught_up":
            self.caught_up.set()
        if event.sequence == 0:
            return  # caught_up and progress are no part of the chat
        if event.sequence != self.after + 1:
            raise ValueError(f"after {self.after} came {event.sequence}")
        self.after = event.sequence
        self.events.append(event)

    def fail(self, problem):
        with self.changed:
            self.problem = problem
            self.changed.notify_all()

    def wait(self, condition):
        """Waits until the condition holds for the events that are here."""
        with self.changed:
            done = self.changed.wait_for(lambda: self.problem or condition(), DEADLINE_S)
        if self.problem:
            raise AssertionError(self.problem)
        assert done, f"it did not come within {DEADLINE_S} s; the feed is at {self.after}"

    def messages(self):
        return [e for e in self.events if e.WhichOneof("kind") == "message"]

    def stop(self):
        self.stopped = True
        if self.call:
            self.call.cancel()


def rich_error(error):
    """The google.rpc.ErrorInfo of a failed call: a reason for programs, with its values.

    None where the error is not the peer's: the connection broke, or the deadline came here first.
    """
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def expect_error(code, reason, call):
    """Makes a call that must fail like that; returns the values that come with the reason."""
    try:
        call()
    except grpc.RpcError as error:
        info = rich_error(error)
        assert error.code() == code, error
        assert info and (info.domain, info.reason) == ("demes", reason), error
        return info.metadata
    raise AssertionError(f"the call succeeded, and {reason} was expected")


def wait_until(what, condition):
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


class Story:
    """The steps, and what they hand on."""

    def __init__(self, addresses):
        self.ana, self.ben, self.cleo = self.people = [Person(address) for address in addresses]

    def found_and_invite(self):
        request = demes.CreateChatRequest(
            name="Python", addresses=[self.ben.address, self.cleo.address]
        )
        chat = self.ana.peer.CreateChat(request, timeout=DEADLINE_S).chat
        assert chat.name == "Python"
        self.chat_id = chat.chat_id

    def accept(self):
        for guest in (self.ben, self.cleo):
            invite = wait_until("an invitation", lambda: self.invite_of(guest))
            # A person would compare this fingerprint with the inviter over another channel.
            assert invite.peer_id == self.ana.peer_id
            request = demes.AcceptInviteRequest(chat=self.chat_id)
            guest.peer.AcceptInvite(request, timeout=DEADLINE_S)
        wait_until("three voters", lambda: sum(m.voter for m in self.chat().members) == 3)

    def invite_of(self, guest):
        invites = guest.peer.ListInvites(demes.ListInvitesRequest(), timeout=DEADLINE_S).invites
        found = (i for i in invites if i.chat_id == self.chat_id and i.incoming)
        return next(found, None)

    def chat(self, person=None):
        request = demes.GetChatRequest(chat=self.chat_id)
        return (person or self.ana).peer.GetChat(request, timeout=DEADLINE_S).chat

    def send(self):
        self.texts = [f"{number}: grüße, 你好, 👋" for number in range(1, 13)]
        for number, text in enumerate(self.texts):
            person = self.people[number % 3]
            person.send(self.chat_id, text)

    def send_once(self):
        request_id = str(uuid.uuid4())
        first = self.ben.send(self.chat_id, "once", request_id)
        again = self.ben.send(self.chat_id, "once", request_id)
        assert first == again, "a repeated request has its first result"
        self.texts.append("once")

    def follow(self):
        host = self.chat().host_peer_id
        self.host = next(p for p in self.people if p.peer_id == host)
        self.others = [p for p in self.people if p is not self.host]
        # One reader loses its peer, since that is the host; the other one's peer stays.
        self.moving = Feed(self.chat_id, [self.host, *self.others])
        self.staying = Feed(self.chat_id, [self.others[0]])
        for feed in (self.moving, self.staying):
            assert feed.caught_up.wait(DEADLINE_S), "no CaughtUp"
            feed.wait(lambda f=feed: [m.message.text for m in f.messages()] == self.texts)

    def lose_the_host(self):
        before = self.moving.after
        subprocess.run([os.environ["KILL"], self.host.peer_id], check=True)
        for number in range(1, 6):
            text = f"{number} after the loss"
            self.others[number % 2].send(self.chat_id, text)
            self.texts.append(text)
        for feed in (self.moving, self.staying):
            feed.wait(lambda f=feed: [m.message.text for m in f.messages()] == self.texts)
        assert self.moving.breaks > 0, "the reader did not lose its peer"
        assert self.staying.breaks == 0, "a host change does not end the feed of a member"
        later = [e for e in self.staying.events if e.sequence > before]
        hosts = [e.author_peer_id for e in later if e.WhichOneof("kind") == "host"]
        assert hosts and self.host.peer_id not in hosts, "another member hosts"
        assert self.chat(self.others[0]).term > 1

    def come_back(self):
        subprocess.run([os.environ["RESTART"], self.host.peer_id], check=True)
        # Its person's program has what came before the loss, and asks for the rest.
        back = Feed(self.chat_id, [self.host])
        back.wait(lambda: [m.message.text for m in back.messages()] == self.texts)
        # The hash of an entry covers all entries before it: equal hashes, equal histories.
        end = back.messages()[-1].sequence
        feeds = (back, self.moving, self.staying)
        chains = [[(e.sequence, e.hash) for e in f.events if e.sequence <= end] for f in feeds]
        assert chains[0] == chains[1] == chains[2] and len(chains[0]) == end
        for feed in feeds:
            feed.stop()

    def page_backwards(self):
        assert self.pages(page_size=5, before=0, backwards=True) == self.texts

    def page_forwards(self):
        assert self.pages(page_size=7, after=0) == self.texts

    def pages(self, backwards=False, **request):
        texts, token = [], ""
        while True:
            page = self.ana.peer.ListMessages(
                demes.ListMessagesRequest(chat=self.chat_id, page_token=token, **request),
                timeout=DEADLINE_S,
            )
            found = [event.message.text for event in page.messages]  # oldest first, either way
            texts = found + texts if backwards else texts + found
            token = page.next_page_token
            if not token:
                return texts

    def errors(self):
        send = demes.SendMessageRequest(chat=self.chat_id, text="ü" * (TEXT_CHARS_MAX + 1))
        values = expect_error(
            grpc.StatusCode.INVALID_ARGUMENT,
            "TEXT_TOO_LONG",
            lambda: self.ana.peer.SendMessage(send, timeout=DEADLINE_S),
        )
        assert values["characters"] == "2049" and values["characters_max"] == "2048"
        expect_error(
            grpc.StatusCode.NOT_FOUND,
            "CHAT_NOT_FOUND",
            lambda: self.ana.peer.GetChat(demes.GetChatRequest(chat="Nobody's"), timeout=DEADLINE_S),
        )
        cursor = demes.FeedCursor(chat=self.chat_id, after=1_000_000)
        values = expect_error(
            grpc.StatusCode.OUT_OF_RANGE,
            "CURSOR_AHEAD",
            lambda: next(self.ana.peer.Feed(demes.FeedRequest(cursors=[cursor]))),
        )
        assert int(values["committed"]) >= len(self.texts)

    def no_majority(self):
        subprocess.run([os.environ["KILL"], self.ben.peer_id], check=True)
        subprocess.run([os.environ["KILL"], self.cleo.peer_id], check=True)
        request = demes.SendMessageRequest(
            chat=self.chat_id, text="alone", request_id="alone-1", wait=demes.WAIT_COMMITTED
        )

        def reason():
            try:
                self.ana.peer.SendMessage(request, timeout=1)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
                return rich_error(error)  # None where this program's clock was first
            raise AssertionError("one of three is no majority")

        info = wait_until("the peer's word on it", reason)
        assert (info.reason, info.metadata["request_id"]) == ("NO_MAJORITY", "alone-1")
        assert self.chat().queued == 1
        for person in (self.ben, self.cleo):
            subprocess.run([os.environ["RESTART"], person.peer_id], check=True)
        # The same request again, to learn what has become of it: it was sent once.
        assert self.ana.send(self.chat_id, "alone", "alone-1") > 0
        self.texts.append("alone")
        assert self.pages(page_size=500, after=0) == self.texts


STEPS = [
    ("founds a chat and invites two people", Story.found_and_invite),
    ("they see the invitation and accept it", Story.accept),
    ("all three send", Story.send),
    ("a repeated request is sent once", Story.send_once),
    ("two readers follow the feed, until it is live", Story.follow),
    ("the host is killed: no gap, nothing twice, on either reader", Story.lose_the_host),
    ("the killed peer comes back and has the same chain of hashes", Story.come_back),
    ("pages history from the newest message back", Story.page_backwards),
    ("pages history from the oldest message on", Story.page_forwards),
    ("understands rich errors", Story.errors),
    ("without a majority a message waits, and is sent once later", Story.no_majority),
]


def main():
    story, passed = Story(sys.argv[1:4]), 0
    for name, step in STEPS:
        begun = time.monotonic()
        try:
            step(story)
        except Exception as error:  # the steps after this one need it
            print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
            break
        passed += 1
        print(f"passed  {name} ({time.monotonic() - begun:.1f} s)", flush=True)
    failed = len(STEPS) - passed
    print(f"python: {passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
