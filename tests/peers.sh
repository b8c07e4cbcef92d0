# Real peers for scripts: processes on loopback, on ports that are free, with data directories of
# their own. To be sourced. The caller sets `scratch` (a folder that it removes at the end) and
# `demes` (the program), and calls peers_end when it is done.
#
# After `peers_start ana` there are ${peer_id[ana]}, ${peer_address[ana]} (for other peers),
# ${client_address[ana]} (for programs), ${data_dir[ana]}, and ${client_socket[ana]}, where programs
# need no token.

declare -A peer_id peer_address client_address client_socket data_dir peer_pid

# peers_start NAME [FLAG...]: starts a peer and waits until it has said where it listens. A peer that
# was here before comes back at its addresses.
peers_start() {
    local name=$1 folder=$scratch/peers/$1 tries=300
    shift
    mkdir -p "$folder"
    rm -f "$folder/announced"
    set -m # a process group of its own: an interrupt is for the script, which ends its peers itself
    "$demes" up --json --name "${name^}" --data-dir "$folder/data" \
        --listen "${peer_address[$name]:-127.0.0.1:0}" \
        --client-listen "${client_address[$name]:-127.0.0.1:0}" "$@" \
        >"$folder/announced" 2>>"$folder/log" </dev/null &
    peer_pid[$name]=$!
    set +m
    until [ -s "$folder/announced" ]; do
        kill -0 "${peer_pid[$name]}" 2>/dev/null && ((tries-- > 0)) || {
            cat "$folder/log" >&2
            echo "$name's peer did not start" >&2
            return 1
        }
        sleep 0.1
    done
    peer_id[$name]=$(_peers_field peer_id "$folder/announced")
    peer_address[$name]=$(_peers_field address "$folder/announced")
    client_address[$name]=$(_peers_field client_address "$folder/announced")
    data_dir[$name]=$folder/data
    client_socket[$name]=unix:$folder/data/client.sock
}

_peers_field() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$2"
}

# peers_kill NAME: as a power cut would, without a word to the others.
peers_kill() {
    kill -KILL "${peer_pid[$1]}"
    wait "${peer_pid[$1]}" 2>/dev/null || true
    unset "peer_pid[$1]"
}

# peers_end: stops all of them.
peers_end() {
    local name
    for name in "${!peer_pid[@]}"; do kill -TERM "${peer_pid[$name]}" 2>/dev/null || true; done
    for name in "${!peer_pid[@]}"; do wait "${peer_pid[$name]}" 2>/dev/null || true; done
    peer_pid=()
}
