#!/usr/bin/env bash
# Runs the shell blocks of README.md and of what goes on from there, so that what a newcomer types
# works.
#
# Every ```sh block has a mark in the line before it:
#   <!-- run -->                    it must succeed
#   <!-- run in the background -->  it goes on to the end of this script; the next block begins when it
#                                   has printed its first line
#   <!-- run until it succeeds -->  it is tried again for a minute, since it waits for another peer
#   <!-- run with grpcurl … -->     like each of these, where grpcurl can be had; else it is skipped
#   <!-- not run: reason -->        it is skipped
# Blocks share one shell, one scratch HOME, and a PATH that begins with the built program.
set -euo pipefail
cd "$(dirname "$0")/.."
readmes=("${@:-README.md}")
[ $# -gt 0 ] || readmes+=(docs/programs.md)
source tests/tools.sh

export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
scratch=$(mktemp -d)
started=()
clean_up() {
    local status=$?
    for pid in ${started[@]+"${started[@]}"}; do kill -- "-$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cargo build --locked --release --quiet
has_grpcurl=
if grep -q '^<!-- run with grpcurl' "${readmes[@]}" &&
    tools_go grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3; then
    has_grpcurl=yes
fi
export HOME=$scratch/home PATH=$PWD/target/release:$PATH
unset XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR
mkdir "$HOME"

# One file for each block: its mark in the first line, its commands below.
awk -v scratch="$scratch" '
    /^```sh *$/ { inside = 1; file = sprintf("%s/block-%03d", scratch, ++count)
                  print FILENAME ":" FNR " " mark > file; next }
    /^```/      { inside = 0 }
    inside      { print > file }
    !/^ *$/     { mark = $0 }
' "${readmes[@]}"

in_background() {
    local output=$1 commands=$2
    set -m # a process group of its own, so that its children end with it
    (eval "$commands") >"$output" 2>&1 </dev/null &
    started+=($!)
    set +m
    local tries=600
    until [ -s "$output" ]; do
        kill -0 "${started[-1]}" 2>/dev/null || { echo "It ended without a word."; return 1; }
        ((tries-- > 0)) || { echo "It printed nothing for a minute."; return 1; }
        sleep 0.1
    done
    cat "$output"
}

blocks=0
for block in "$scratch"/block-*; do
    [ -e "$block" ] || break
    read -r line mark <"$block"
    commands=$(tail -n +2 "$block")
    printf '\n-- %s %s\n%s\n--\n' "$line" "$mark" "$commands"
    if [[ $mark == "<!-- run with grpcurl"* ]]; then
        [ -n "$has_grpcurl" ] || { echo "Skipped."; continue; }
        mark=${mark/ with grpcurl/}
    fi
    case $mark in
        "<!-- run -->") eval "$commands" ;;
        "<!-- run until it succeeds -->")
            tries=60
            until eval "$commands"; do
                ((tries-- > 0)) || { echo "It did not succeed within a minute." >&2; exit 1; }
                sleep 1
            done ;;
        "<!-- run in the background -->") in_background "$block.out" "$commands" ;;
        "<!-- not run: "*) echo "Skipped." ;;
        *) echo "$line: the block does not say whether it is to be run." >&2; exit 1 ;;
    esac
    blocks=$((blocks + 1))
done
[ "$blocks" -gt 0 ] || { echo "${readmes[*]} has no shell blocks." >&2; exit 1; }
[ -z "$has_grpcurl" ] || tools_client grpcurl
printf '\n%s blocks of %s looked at.\n' "$blocks" "${readmes[*]}"
