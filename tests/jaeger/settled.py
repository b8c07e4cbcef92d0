"""Reads `demes status CHAT --json`: fails until three peers vote and are ranked, so that any one of
them may be lost. Then it prints the id of the host.
"""

import json
import sys

said = sys.stdin.read()
if not said:
    sys.exit(1)  # the peer has not joined yet
chat = json.loads(said)["chat"]
voters = [member for member in chat["members"] if member["voter"]]
ranked = (chat["ranking"] or {"candidates": []})["candidates"]
if not chat["serving"] or len(voters) < 3 or len(ranked) < 3:
    sys.exit(1)
print(chat["host_peer_id"])
