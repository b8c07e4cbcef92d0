#!/usr/bin/env bash
# Runs every layer of the proof and prints one line for each: what was counted, the time, the result.
# docs/verification.md explains the layers.
#
#   tests/scoreboard.sh           what CI runs, about ten minutes on two cores
#   tests/scoreboard.sh --long    20,000 seeds, a model of 10^7 states, an hour of real faults
set -uo pipefail
cd "$(dirname "$0")/.."

case ${1-} in
    '') seeds=500 times=1 minutes=3 flips= ;;
    --long) seeds=20000 times=5 minutes=60 flips=all ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

logs=$(mktemp -d)
rows=() failed=0

# layer NAME COUNT COMMAND...: COUNT is an awk program that makes the count of the output.
layer() {
    local name=$1 count=$2 log="$logs/$1.log" begun=$SECONDS result=holds
    shift 2
    printf '%-16s %s\n' "$name" "$*" >&2
    if ! "$@" >"$log" 2>&1; then
        result="FAILED, see $log"
        failed=1
    fi
    rows+=("$(printf '%-16s|%s|%s s|%s' "$name" "$(awk "$count" "$log")" "$((SECONDS - begun))" "$result")")
}

# Those in the rules, and those around them.
mistakes() {
    "${protocol[@]}" --features planted --test mutation &&
        cargo test --locked --release --features demes/planted --test planted
}

protocol=(cargo test --locked --release -p demes-protocol)
tests='/^test result/ { n += $4 } END { print n + 0 " tests" }'

cargo build --locked --release --all-targets --quiet || exit 1
layer 'golden scripts' "END { print \"$(find tests/golden -name '*.txt' | wc -l) scripts\" }" \
    "${protocol[@]}" --test golden
layer 'model check' 'match($0, /[0-9]+ unique/) { n += substr($0, RSTART, RLENGTH); m += 1 }
    END { print n + 0 " states in " m + 0 " configurations" }' \
    env TIMES=$times "${protocol[@]}" --test model -- --nocapture --test-threads=1
layer simulation '/ seeds in / { print $1 " seeds, " $6 " a second" }' \
    env SEEDS=$seeds "${protocol[@]}" --test sim -- --nocapture
layer mutation '/mistakes planted/ { n += $1; m += $4 } END { print m + 0 " of " n + 0 " mistakes caught" }' \
    mistakes
layer 'real processes' '/ minutes, seed .* faults/ || /events;/ { s = s (s ? "; " : "") $0 } END { print s }' \
    cargo test --locked --release --test chaos -- --minutes $minutes
layer corruption '/ cases, / { n += $2 } END { print n + 0 " cases" }' \
    env ${flips:+DEMES_FLIPS=$flips} cargo test --locked --release --test damage
layer fuzzing '/ changed inputs/ { n += $2; m += 1 } END { print n + 0 " inputs for " m + 0 " decoders" }' \
    cargo test --locked --release --test fuzz -- --nocapture
layer security "$tests" cargo test --locked --release --test security
layer 'stories' "$tests" cargo test --locked --release --test cluster

printf '\n'
printf '%s\n' 'layer|count|time|result' "${rows[@]}" | column -t -s '|'
if ((failed)); then
    printf '\nSome of it does not hold.\n'
    exit 1
fi
rm -rf "$logs"
printf '\nAll of it holds.\n'
