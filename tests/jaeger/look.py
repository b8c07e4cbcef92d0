"""Looks in a Jaeger, by its query API, for the trace of a message or of a failover.

    look.py http://127.0.0.1:16686 message|failover PEER-ID=NAME...

Waits until one trace has all that docs/traces.md promises and prints it as a tree. Fails after 60 s.
Needs nothing but Python.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

LIMIT_S = 60
CALLS = "demes.v1."
# What must be there, as `parent > span`; the number says at how many peers.
WANTED = {
    "message": {
        "ClientService/SendMessage > send": 1,
        "send > sync": 1,
        "send > HostService/Submit": 2,
        "send > order": 1,
        "send > append": 3,
        "append > sync": 3,
        "send > commit": 1,
        "send > deliver": 3,
    },
    "failover": {
        "failover > suspect": 2,
        "suspect > nominate": 2,
        "nominate > ElectionService/Nominate": 1,
        "failover > stand": 1,
        "stand > ElectionService/RequestVote": 1,
        "ElectionService/RequestVote > ElectionService/RequestVote": 1,
        "ElectionService/RequestVote > vote": 1,
        "vote > sync": 1,
        "failover > commit": 1,
        "commit > ElectionService/Announce": 1,
        "ElectionService/Announce > ElectionService/Announce": 1,
    },
}
ROOT_OPERATION = {"message": "send", "failover": "failover"}


def traces(base, operation):
    query = {"service": "demes", "operation": operation, "lookback": "1h", "limit": "20"}
    url = f"{base}/api/traces?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"] or []


def tags(of):
    return {tag["key"]: tag["value"] for tag in of.get("tags", [])}


class Span:
    def __init__(self, span, processes, names):
        instance = tags(processes[span["processID"]])["service.instance.id"]
        self.id = span["spanID"]
        self.name = span["operationName"].removeprefix(CALLS)
        self.peer = names[instance]
        self.kind = tags(span).get("span.kind", "internal")
        # A delivery has the sending as its parent and as its link; Jaeger makes one FOLLOWS_FROM of
        # both, and draws it as a child all the same.
        within = [ref for ref in span["references"] if ref["traceID"] == span["traceID"]]
        self.parent = within[0]["spanID"] if within else None
        self.follows = [ref["refType"] == "FOLLOWS_FROM" for ref in span["references"]]
        self.begun_us, self.took_us = span["startTime"], span["duration"]


def edges(spans):
    """At which peers there is a span of a name below one of another name."""
    by_id = {span.id: span for span in spans}
    found = {}
    for span in spans:
        if span.parent in by_id:
            edge = f"{by_id[span.parent].name} > {span.name}"
            found.setdefault(edge, set()).add(span.peer)
    return found


def show(spans, parent=None, depth=0):
    known = {span.id for span in spans}
    children = [s for s in spans if (s.parent if s.parent in known else None) == parent]
    for span in sorted(children, key=lambda span: span.begun_us):
        label = f"{'  ' * depth}{span.name}"
        print(f"  {label:<52} {span.kind:<9} {span.peer:<6} {span.took_us / 1000:8.2f} ms")
        show(spans, span.id, depth + 1)


def look(base, what, names):
    """The first trace with everything; else what the best one lacks."""
    lacking = {"any": 1}
    for trace in traces(base, ROOT_OPERATION[what]):
        spans = [Span(span, trace["processes"], names) for span in trace["spans"]]
        found = edges(spans)
        lacking = {e: n for e, n in WANTED[what].items() if len(found.get(e, ())) < n}
        if not lacking:
            roots = [span for span in spans if span.parent is None]
            assert len(roots) == 1, f"{len(roots)} roots"
            assert all(any(span.follows) == (span.name == "deliver") for span in spans), "links"
            return spans, {}
    return None, lacking


def main():
    base, what = sys.argv[1:3]
    names = dict(pair.split("=") for pair in sys.argv[3:])
    until = time.monotonic() + LIMIT_S
    while True:
        spans, lacking = look(base, what, names)
        if spans:
            peers = sorted({span.peer for span in spans})
            print(f"one trace of a {what}, {len(spans)} spans, by {', '.join(peers)}:")
            show(spans)
            return 0
        if time.monotonic() > until:
            print(f"no trace of a {what} has {lacking}", file=sys.stderr)
            return 1
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
