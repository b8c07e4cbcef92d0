#!/usr/bin/env bash
# Checks docs/api.md with grpcurl against real peers: see api.py. `--write` writes the outputs anew.
# Installs grpcurl into DEMES_TOOLS by `go install`. Takes the program of target/release, or DEMES.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh
tools_has "docs/api.md" python3 || tools_exit
tools_go grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 || tools_exit
[ -n "${DEMES:-}" ] || cargo build --locked --release --quiet
export DEMES=${DEMES:-$PWD/target/release/demes}
# The way in which it was built leaves the hybrid key exchange out until it is asked for.
export GODEBUG=tlsmlkem=1
python3 tests/api.py "$@"
tools_client grpcurl
