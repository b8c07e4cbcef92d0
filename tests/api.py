#!/usr/bin/env python3
"""Runs the commands of docs/api.md against real peers and compares what they print.

    tests/api.sh [--write]

Each ```sh block is run in order, in one scratch HOME; the block after it, ```json or ```text, is
what it must print. `--write` puts there what it has printed. Ana's, Ben's and Cleo's peers run on the
ports that the document says, or rather on free ones which are shown as those. Their keys are fixed,
so that ids and the order of members are too. What differs from run to run need not be equal, but
consistent:

- an id, hash or link of the document stands for one of the run, the same one wherever it appears,
  in commands too;
- times, delays (and which of them are known), incarnations and versions of rankings may be any;
- candidates, invitations and checked members may come in any order.

What only reads is asked again until it prints what it must, since a peer hears of the others' doings
a little later. A block after `<!-- first -->` shows the beginning of a stream; `<!-- peer NAME -->`
starts a peer, `<!-- kill NAME -->` kills one. Every call of `proto/` must be there.
"""

import base64
import glob
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

PORTS = {"ana": (7443, 7444), "ben": (7453, 7454), "cleo": (7463, 7464), "dan": (7473, 7474)}
# Made so that Ana's id begins with a, Ben's with b, and so on.
KEYS = {"ana": 4, "ben": 3, "cleo": 17, "dan": 11}
# What a stranger to the chat asks of its peers is refused and changes nothing, either.
READS = re.compile(
    r"/(Get|List|Find|Watch|Feed|Check|Ping)|\b(list|describe)\b"
    r"|cert dan/.*(Host|Election)Service/", re.S
)
# A busy machine is not to change the host between two commands. A killed one is noticed by its
# connections at once, as ever.
PATIENT = {"DEMES__TIMERS__LEASE_MS_MIN": "8000", "DEMES__TIMERS__LEASE_MS_MAX": "8000"}
SETTLE_S = 40
COMMAND_S = 30
# An id of the document stands for one of the run.
NAMES = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b|demes:[A-Za-z0-9_-]{40,}")
# What may be any.
ANY = [
    (re.compile(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"'), '"TIME"'),
    (re.compile(r'("(?:delay|farness|roundTrip|clockAhead|clockError)Us": )"-?\d+"'), r'\1"NUMBER"'),
    (re.compile(r'("(?:incarnation|fromIncarnation|version)": )"\d+"'), r'\1"NUMBER"'),
]


class Peers:
    def __init__(self, demes, scratch):
        self.demes, self.scratch, self.running, self.ports = demes, scratch, {}, {}

    def start(self, name):
        home = os.path.join(self.scratch, name)
        if not os.path.isdir(home):
            os.mkdir(home, 0o700)
            self.write_key(name, os.path.join(home, "identity.pem"))
        listen, client = self.ports.get(name, (0, 0))
        log = open(os.path.join(self.scratch, name + ".log"), "ab")
        process = subprocess.Popen(
            [self.demes, "up", "--json", "--name", name.capitalize(), "--data-dir", home]
            + ["--listen", f"127.0.0.1:{listen}", "--client-listen", f"127.0.0.1:{client}"],
            stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )
        self.running[name] = process
        said = process.stdout.readline()
        if not said:
            sys.exit(f"{name}'s peer did not start:\n{open(log.name).read()}")
        said = json.loads(said)
        port = lambda address: int(address.rsplit(":", 1)[1])
        self.ports[name] = (port(said["address"]), port(said["client_address"]))

    def write_key(self, name, path):
        seed = hashlib.sha256(f"demes docs {name} {KEYS[name]}".encode()).digest()
        # PKCS#8 of an Ed25519 key. It is nobody's secret, since it stands here.
        der = bytes.fromhex("302e020100300506032b657004220420") + seed
        pem = base64.b64encode(der).decode()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(f"-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n")

    def kill(self, name):
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def end(self):
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait()

    def to_run(self, text):
        """The document's ports as those of the run."""
        return self.swap(text, lambda documented, real: (documented, real))

    def to_document(self, text):
        return self.swap(text, lambda documented, real: (real, documented))

    def swap(self, text, direction):
        pairs = {}
        for name, real in self.ports.items():
            for documented, port in zip(PORTS[name], real):
                old, new = direction(str(documented), str(port))
                pairs[f"127.0.0.1:{old}"] = f"127.0.0.1:{new}"
        return re.sub(r"127\.0\.0\.1:\d+", lambda m: pairs.get(m[0], m[0]), text)


class Names:
    """Which id of the document stands for which of the run."""

    def __init__(self):
        self.of_run, self.of_document = {}, {}

    def pair(self, documented, real):
        """Takes note of a pair; says whether it fits those before."""
        return (
            self.of_run.setdefault(documented, real) == real
            and self.of_document.setdefault(real, documented) == documented
        )

    def to_run(self, text):
        return NAMES.sub(lambda m: self.of_run.get(m[0], m[0]), text)

    def to_document(self, text):
        return NAMES.sub(lambda m: self.of_document.get(m[0], m[0]), text)

    def match(self, documented, real):
        """Whether two outputs say the same; then their ids are paired."""
        one, other = plain(documented), plain(real)
        if NAMES.sub("ID", one) != NAMES.sub("ID", other):
            return False
        saved = dict(self.of_run), dict(self.of_document)
        if all([self.pair(*pair) for pair in zip(NAMES.findall(one), NAMES.findall(other))]):
            return True
        self.of_run, self.of_document = saved
        return False


def plain(output):
    """An output in a form that can be compared."""
    documents, rest = split(output)
    if documents and all(set(document) == {"events"} for document in documents):
        # How many events a frame of a feed has is a matter of time.
        documents = [{"events": [e for document in documents for e in document["events"]]}]
    if len(documents) > 1:
        documents.sort(key=lambda document: document.get("peerId", ""))
    text = "\n".join(json.dumps(in_order(document), indent=2) for document in documents) + rest
    for pattern, replacement in ANY:
        text = pattern.sub(replacement, text)
    return text.strip()


def split(output):
    """The JSON documents at its beginning, and what comes after them."""
    documents, decoder, rest = [], json.JSONDecoder(), output.lstrip()
    while rest.startswith("{"):
        try:
            document, end = decoder.raw_decode(rest)
        except ValueError:
            break
        documents.append(document)
        rest = rest[end:].lstrip()
    return documents, rest


def in_order(value):
    """A value without what is a matter of chance: the ranking is one of measured delays, and
    invitations are in the order of addresses, whose ports are free ones."""
    if isinstance(value, list):
        return [in_order(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: in_order(item) for key, item in value.items()}
    if "candidates" in value:
        value["candidates"].sort(key=lambda candidate: candidate["peerId"])
    if "delays" in value:
        value["delays"] = "as measured so far"
    if "invites" in value:
        value["invites"].sort(key=lambda invite: (invite["chatName"], invite.get("name", "")))
    return value


class Runner:
    def __init__(self, peers, names, write):
        self.peers, self.names, self.write = peers, names, write
        self.failed = self.passed = 0

    def run(self, command, first):
        command = self.peers.to_run(self.names.to_run(command))
        done = subprocess.run(
            ["timeout", str(COMMAND_S), "bash", "-c", command], cwd=self.peers.scratch,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        output = self.peers.to_document(done.stdout).expandtabs(4).strip() + "\n"
        output = output.replace(self.peers.scratch, "~")
        if done.returncode == 124:
            output += f"(it did not end within {COMMAND_S} seconds)\n"
        documents, _ = split(output)
        if first and documents:
            output = json.dumps(documents[0], indent=2, ensure_ascii=False) + "\n"
        return output

    def block(self, line, command, documented, first):
        """Runs one; gives what the document should say."""
        reads = bool(READS.search(command))
        until = time.monotonic() + (SETTLE_S if reads else 0)
        output = self.run(command, first)
        while not self.names.match(documented, output) and time.monotonic() < until:
            if self.write and documented.strip() == "":
                break
            time.sleep(0.5)
            output = self.run(command, first)
        if self.names.match(documented, output):
            self.passed += 1
            return documented
        if self.write:
            if reads:
                output = self.settled(command, first)
            output = self.names.to_document(output)
            for name in NAMES.findall(output):
                self.names.pair(name, self.names.of_run.get(name, name))
            print(f"docs/api.md:{line}: written anew")
            return output
        self.failed += 1
        print(f"docs/api.md:{line}: it should print\n{documented}\nand prints\n"
              f"{self.names.to_document(output)}")
        return documented

    def settled(self, command, first):
        """What it prints once the peers have told each other everything."""
        enough = 12 if "Chat" in command else 2  # a chat settles when its voters do
        shape, same, until = None, 0, time.monotonic() + SETTLE_S
        while same < enough and time.monotonic() < until:
            time.sleep(1)
            output = self.run(command, first)
            now = NAMES.sub("ID", plain(output))
            shape, same = now, same + 1 if now == shape else 0
        return output


def calls():
    """Every call of the contract, as Service/Method."""
    found = []
    for path in sorted(glob.glob("proto/demes/v1/*.proto")):
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", open(path).read(), re.M | re.S):
            found += [f"{service}/{method}" for method in re.findall(r"^  rpc (\w+)\(", body, re.M)]
    return found


def main():
    write = "--write" in sys.argv[1:]
    path = "docs/api.md"
    text = open(path).read()
    scratch = tempfile.mkdtemp(prefix="demes-api-")
    os.environ["HOME"] = scratch
    os.environ.update(PATIENT)
    peers = Peers(os.path.abspath(os.environ["DEMES"]), scratch)
    runner = Runner(peers, Names(), write)
    pattern = re.compile(
        r"<!-- (?P<what>peer|kill) (?P<name>\w+) -->\n|"
        r"(?P<first><!-- first -->\n)?"
        r"```sh\n(?P<command>.*?)```\n(?P<between>\s*)```(?P<kind>json|text)\n(?P<output>.*?)```\n",
        re.S,
    )

    def step(found):
        if found["what"]:
            (peers.start if found["what"] == "peer" else peers.kill)(found["name"])
            return found[0]
        line = text.count("\n", 0, found.start()) + 1
        command = found["command"]
        output = runner.block(line, command, found["output"], bool(found["first"]))
        return (
            f"{found['first'] or ''}```sh\n{command}```\n{found['between']}"
            f"```{found['kind']}\n{output}```\n"
        )

    try:
        new = pattern.sub(step, text)
    finally:
        peers.end()
        subprocess.run(["rm", "-rf", scratch])
    commands = "".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    for call in calls():
        if f" demes.v1.{call}\n" not in commands:
            print(f"docs/api.md calls no {call}")
            runner.failed += 1
    if write:
        open(path, "w").write(new)
    blocks = text.count("```sh\n")
    if runner.passed + runner.failed < blocks and not write:
        print(f"docs/api.md has {blocks} blocks of commands; each needs what it prints behind it")
        runner.failed += 1
    print(f"docs/api.md: {runner.passed} passed, {runner.failed} failed")
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
