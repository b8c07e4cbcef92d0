#!/usr/bin/env bash
# Measures etcd beside demes: three members on loopback that sync, and the load of
# benches/throughput.rs. Needs `etcd` (Debian: etcd-server) and `go`; nothing of it is a dependency
# of demes.
#
#     benches/etcd.sh [--readers 10] [--seconds 10]
#
# The members have no TLS, where demes has it between its peers.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for tool in etcd go; do
    command -v "$tool" >/dev/null || { echo "SKIPPED: there is no $tool"; exit 0; }
done
work=$(mktemp -d)
members=()
stop() {
    for pid in "${members[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap stop EXIT

mkdir "$work/client"
cp "$here/etcd/main.go" "$work/client/"
(
    cd "$work/client"
    go mod init demes-bench-etcd
    go get go.etcd.io/etcd/client/v3@v3.5.21
    go build -o ../bench .
) 2>"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }

cluster=
endpoints=
for member in 1 2 3; do
    cluster+="${cluster:+,}m$member=http://127.0.0.1:2${member}380"
    endpoints+="${endpoints:+,}127.0.0.1:2${member}379"
done
for member in 1 2 3; do
    etcd --name "m$member" --data-dir "$work/m$member" --log-level error \
        --initial-cluster "$cluster" --initial-cluster-state new \
        --initial-advertise-peer-urls "http://127.0.0.1:2${member}380" \
        --listen-peer-urls "http://127.0.0.1:2${member}380" \
        --advertise-client-urls "http://127.0.0.1:2${member}379" \
        --listen-client-urls "http://127.0.0.1:2${member}379" 2>"$work/m$member.log" &
    members+=($!)
done
etcd --version | grep '^etcd'
"$work/bench" -endpoints "$endpoints" "${@/#--/-}"
