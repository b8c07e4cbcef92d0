#!/usr/bin/env bash
# The real Jaeger shows a message and a failover, each as one trace: three peers on loopback send
# their traces to it, one says something, the host is killed, and Jaeger's query API is asked.
#
#   tests/jaeger.sh [--stay]      with --stay everything goes on until Enter, for a look at the traces
#
# Installs Jaeger once, into DEMES_TOOLS (see tests/tools.sh), from the sources that tests/jaeger/go.sum
# pins; that takes some minutes. Takes the program of target/release, or DEMES.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh
source tests/peers.sh

tools_has jaeger python3 || tools_exit
tools_go_module jaeger tests/jaeger || tools_exit

demes=${DEMES:-$PWD/target/release/demes}
[ -n "${DEMES:-}" ] || cargo build --locked --release --quiet
scratch=$(mktemp -d)
jaeger_pid=
clean_up() {
    local status=$?
    peers_end
    [ -z "$jaeger_pid" ] || { kill "$jaeger_pid" 2>/dev/null && wait "$jaeger_pid" || true; }
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_until WHAT COMMAND...: tries for half a minute.
wait_until() {
    local what=$1 tries=150
    shift
    until "$@"; do
        ((tries-- > 0)) || { echo "not in time: $what" >&2; return 1; }
        sleep 0.2
    done
}

read -r http grpc otlp < <(python3 - <<'PY'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(it.getsockname()[1] for it in sockets))
PY
)
JAEGER_HTTP_PORT=$http JAEGER_GRPC_PORT=$grpc JAEGER_OTLP_PORT=$otlp \
    jaeger --config tests/jaeger/config.yaml >"$scratch/jaeger.log" 2>&1 &
jaeger_pid=$!
ui=http://127.0.0.1:$http
answers() {
    kill -0 "$jaeger_pid" || { cat "$scratch/jaeger.log" >&2; exit 1; }
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' \
        "$ui/api/services" 2>/dev/null
}
wait_until "Jaeger answers" answers

export DEMES__TELEMETRY__OTLP_ENDPOINT=http://127.0.0.1:$otlp
export DEMES__METRICS__OTLP_INTERVAL_S=0 # this Jaeger takes traces only
names=()
for name in ana ben cleo; do
    peers_start "$name"
    names+=("${peer_id[$name]}=$name")
done

at() { # at NAME COMMAND...: the command line of that person
    local name=$1
    shift
    "$demes" --data-dir "${data_dir[$name]}" "$@"
}
at ana new Friday "${peer_address[ben]}" "${peer_address[cleo]}"
accepted() { at "$1" accept Friday >/dev/null 2>&1; }
for name in ben cleo; do wait_until "$name accepts" accepted "$name"; done
# Everybody votes and is ranked: then any one of them may be lost.
settled() { # settled NAME: as that peer sees it; notes who hosts
    host=$(at "$1" status Friday --json 2>/dev/null | python3 tests/jaeger/settled.py)
}
for name in ana ben cleo; do wait_until "$name votes and is ranked" settled "$name"; done

names_of() { # names_of ID: who hosts, and who does not
    local name
    hosting='' others=()
    for name in ana ben cleo; do
        if [ "${peer_id[$name]}" = "$1" ]; then hosting=$name; else others+=("$name"); fi
    done
}
names_of "$host"
at "${others[0]}" send Friday "Is anybody there?" >/dev/null
printf '\n%s hosts, and %s has sent a message.\n' "$hosting" "${others[0]}"
python3 tests/jaeger/look.py "$ui" message "${names[@]}"

peers_kill "$hosting"
at "${others[0]}" send Friday "Who hosts now?" >/dev/null
printf '\n%s was killed, and %s has sent another one.\n' "$hosting" "${others[0]}"
python3 tests/jaeger/look.py "$ui" failover "${names[@]}"

if [ "${1:-}" = --stay ]; then
    printf '\nThe traces are at %s; Enter ends it.\n' "$ui"
    read -r
fi
