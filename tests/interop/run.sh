#!/usr/bin/env bash
# Clients in other languages against real peers: three processes on loopback, of which the host is
# killed. Each client is made from proto/ by the usual tools of its language, in a scratch folder.
#
#   tests/interop/run.sh [python] [go]      both by default
#
# Installs, once, into DEMES_TOOLS (see tests/tools.sh): grpcio and grpcio-tools by pip, buf by npm;
# Go takes the modules of tests/interop/go/go.sum. Takes the program of target/release, or DEMES.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/tools.sh
source tests/peers.sh

demes=${DEMES:-$PWD/target/release/demes}
[ -n "${DEMES:-}" ] || cargo build --locked --release --quiet
limit_s=300
scratch=$(mktemp -d)
clean_up() {
    local status=$?
    peers_end
    rm -rf "$scratch"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The clients kill and restart peers with these two commands; this script does it, since the peers are
# its children.
export KILL=$scratch/kill RESTART=$scratch/restart
for command in kill restart; do
    printf '#!/bin/sh\nset -e\necho "%s $1" >"%s/orders"\nread -r done <"%s/done"\n[ "$done" = 0 ]\n' \
        "$command" "$scratch" "$scratch" >"$scratch/$command"
    chmod +x "$scratch/$command"
done
mkfifo "$scratch/orders" "$scratch/done"

carry_out() {
    local order=$1 id=$2 name
    for name in "${!peer_id[@]}"; do
        [ "${peer_id[$name]}" = "$id" ] || continue
        case $order in
            kill) peers_kill "$name" && return ;;
            restart) peers_start "$name" && return ;;
        esac
    done
    return 1
}

# play COMMAND...: starts three peers, runs the client with their sockets, and does what it orders.
play() {
    local name client status order id
    unset peer_id peer_address client_address client_socket data_dir peer_pid
    declare -gA peer_id peer_address client_address client_socket data_dir peer_pid
    rm -rf "$scratch/peers"
    for name in ana ben cleo; do peers_start "$name" || return 1; done
    # Both ends stay open here, so that reading never ends.
    exec 8<>"$scratch/orders" 9<>"$scratch/done"
    (timeout "$limit_s" "$@" "${client_socket[ana]}" "${client_socket[ben]}" "${client_socket[cleo]}"
     echo "status $?" >&8) 8>&8 &
    client=$!
    status=1
    while read -r order id <&8; do
        if [ "$order" = status ]; then
            status=$id
            break
        fi
        if carry_out "$order" "$id"; then echo 0 >&9; else echo 1 >&9; fi
    done
    wait "$client" || true
    exec 8>&- 9>&-
    peers_end
    [ "$status" = 0 ] || tail -n 30 "$scratch"/peers/*/log >&2
    return "$status"
}

python_client() {
    tools_pip python-client grpcio==1.85.1 grpcio-tools==1.85.1 grpcio-status==1.85.1 || return 0
    "$TOOLS_PYTHON" -m grpc_tools.protoc -I proto \
        --python_out="$scratch/python" --grpc_python_out="$scratch/python" proto/demes/v1/*.proto
    PYTHONPATH=$scratch/python PYTHONDONTWRITEBYTECODE=1 \
        play "$TOOLS_PYTHON" tests/interop/python/client.py
}

go_client() {
    tools_has go-client go || return 0
    tools_npm buf @bufbuild/buf@1.75.0 || return 0
    cp -r tests/interop/go/. "$scratch/go"
    if ! (cd "$scratch/go" && go mod download) >"$scratch/go.log" 2>&1; then
        tools_skip go-client "its modules cannot be had: $(tail -n 1 "$scratch/go.log")"
        return 0
    fi
    (cd "$scratch/go" && buf generate "$OLDPWD/proto" && go vet . && go build -o client .)
    play "$scratch/go/client"
}

failed=0
for part in "${@:-python go}"; do
    for language in $part; do
        printf '\n-- a client in %s\n' "${language^}"
        mkdir "$scratch/$language"
        skipped=$(grep -c '^SKIPPED: ' "$tools_tally" 2>/dev/null || true)
        if "${language}_client"; then
            [ "$(grep -c '^SKIPPED: ' "$tools_tally" 2>/dev/null || true)" != "$skipped" ] ||
                tools_client "$language"
        else
            failed=$((failed + 1))
        fi
    done
done
exit $((failed > 0))
