#!/usr/bin/env bash
# The metrics and alarms with Prometheus' own tool: the rules parse, each alarm fires when it must
# and not before, and what a peer says at /metrics is well-formed.
#
#     tests/metrics.sh [PROGRAM]      PROGRAM is target/release/demes by default
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh

program=$(realpath "${1:-target/release/demes}")
scratch=$(mktemp -d)
peer=
finish() {
    [ -z "$peer" ] || kill "$peer" 2>/dev/null || true
    wait
    rm -rf "$scratch"
}
trap finish EXIT

# promtool of the Debian package. It is taken out of the package, so that no server is installed.
unpack_promtool() {
    (apt-get update -qq || true; cd "$1" && apt-get download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb)
}
if ! command -v promtool >/dev/null; then
    tools_has promtool apt-get || tools_exit
    folder=$DEMES_TOOLS/promtool
    _tools_install promtool "$folder" unpack_promtool "$folder" || tools_exit
    export PATH="$folder/usr/bin:$PATH"
fi
promtool --version 2>&1 | head -n 1

promtool check rules k8s/components/monitoring/alerts.yaml
promtool test rules tests/metrics/alerts.test.yaml

# A peer with a chat and one refused call, as Prometheus finds it.
flags=(--data-dir "$scratch/peer")
"$program" up "${flags[@]}" --name Ana --listen 127.0.0.1:0 --client-listen 127.0.0.1:0 \
    --metrics-listen 127.0.0.1:0 --json </dev/null >"$scratch/up" 2>"$scratch/log" &
peer=$!
for _ in $(seq 100); do
    [ -s "$scratch/up" ] && break
    kill -0 "$peer" || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.1
done
address=$(sed -n 's/.*"metrics": *"\([^"]*\)".*/\1/p' "$scratch/up")
[ -n "$address" ] || { echo "the peer does not say where its metrics are" >&2; exit 1; }
"$program" new Metrics "${flags[@]}" >/dev/null
"$program" send Metrics "Is anybody counting?" "${flags[@]}" >/dev/null
"$program" send Nowhere "Nobody." "${flags[@]}" 2>/dev/null && exit 1
curl --silent --show-error --fail --max-time 10 "$address" >"$scratch/metrics"

# The conventions of OpenTelemetry and of Prometheus disagree about the end of this one name.
known='process_unix_file_descriptor_count non-histogram and non-summary metrics '
known+='should not have "_count" suffix'
promtool check metrics <"$scratch/metrics" >"$scratch/lint" 2>&1 || true
if grep -vxF "$known" "$scratch/lint"; then
    echo "promtool finds fault with the metrics" >&2
    exit 1
fi
for name in demes_chat_hosting demes_entry_committed_total demes_input_rejected_total \
    demes_message_confirm_duration_seconds_count process_memory_usage_bytes target_info; do
    grep -q "^$name[ {]" "$scratch/metrics" || { echo "there is no $name" >&2; exit 1; }
done
printf 'promtool takes %s series of a peer\n' "$(grep -vc '^#' "$scratch/metrics")"
