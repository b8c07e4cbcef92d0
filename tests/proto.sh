#!/usr/bin/env bash
# Checks that proto/ is a contract: `buf lint` finds nothing, every message, field, enum value, call
# and service has a comment, and `buf breaking` finds nothing against earlier versions of proto/.
#
# The earlier versions are those of this branch's history, without the one that equals the working
# tree: the last one always, and all since proto/buf.yaml is there, at most 20. So it does not matter
# how many commits a change is made of, or whether they are merged yet.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh
tools_npm buf @bufbuild/buf@1.75.0 || tools_exit

versions_max=20
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/seen"

# Refuses to have a check that cannot fail: buf must find what was spoilt in a copy.
must_find() {
    local finding=$1 edit=$2
    shift 2
    rm -rf "$scratch/spoilt"
    cp -r proto "$scratch/spoilt"
    sed -i "$edit" "$scratch/spoilt/demes/v1/client.proto"
    if "$@" >"$scratch/findings" 2>&1; then
        echo "buf does not find this: $finding" >&2
        exit 1
    fi
    grep -q "$finding" "$scratch/findings" || { cat "$scratch/findings" >&2; exit 1; }
}

buf lint proto
must_find 'non-empty comment' '/^  \/\/ .*peer.*$/d' buf lint "$scratch/spoilt"
must_find 'should be suffixed with "Service"' 's/service ClientService /service Client /' \
    buf lint "$scratch/spoilt"
must_find 'from "chat_id" to "id"' 's/string chat_id = 1;/string id = 1;/' \
    buf breaking "$scratch/spoilt" --against proto
must_find 'changed type from "uint64" to "string"' 's/uint64 sequence = 2;/string sequence = 2;/' \
    buf breaking "$scratch/spoilt" --against proto
must_find 'Previously present RPC "MarkRead"' '/rpc MarkRead/d' \
    buf breaking "$scratch/spoilt" --against proto
echo "buf lint: nothing found (STANDARD, COMMENTS)"

version_of() { # one line for all files of a proto/ folder
    (cd "$1" && find . -name '*.proto' | sort | xargs cksum | cksum | tr -d ' ')
}

touch "$scratch/seen/$(version_of proto)"
checked=0
while read -r commit; do
    rm -rf "$scratch/old"
    mkdir "$scratch/old"
    git archive "$commit" proto | tar -x -C "$scratch/old"
    version=$(version_of "$scratch/old/proto")
    [ -e "$scratch/seen/$version" ] && continue
    # Before anything was released, the contract began anew: an entry's incarnation has been called so
    # since then (docs/decisions/0015).
    grep -q 'uint64 session = 4;' "$scratch/old/proto/demes/v1/types.proto" && continue
    touch "$scratch/seen/$version"
    if [ "$checked" -gt 0 ]; then
        [ -e "$scratch/old/proto/buf.yaml" ] && [ "$checked" -lt "$versions_max" ] || break
    fi
    buf breaking proto --against "$scratch/old/proto" || {
        echo "proto/ breaks what commit $commit has promised" >&2
        exit 1
    }
    checked=$((checked + 1))
    last=${last:-${commit:0:12}}
done < <(git rev-list HEAD -- proto)

if [ "$checked" -gt 0 ]; then
    echo "buf breaking: nothing found against the $checked last versions, the newest of them $last"
elif [ "$(git rev-parse --is-shallow-repository 2>/dev/null)" = false ]; then
    echo "buf breaking: proto/ has no earlier version"
else
    tools_skip "buf breaking" "this clone has no earlier version of proto/ (git fetch --unshallow)"
    tools_exit
fi
