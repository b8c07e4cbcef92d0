#!/usr/bin/env bash
# Tools of other people that the checks use, and the tally of what could not be had.
#
# A script sources this file, installs what it needs, and says what it could not do:
#
#   source tests/tools.sh
#   tools_go grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3 || tools_exit
#   tools_client grpcurl            # after a program that is not ours has called a peer, and passed
#
# Each tool is installed once, in the version that is named, into a folder of its own under
# DEMES_TOOLS (target/tools by default); its programs are then on the PATH. A function that cannot
# get its tool prints and counts `SKIPPED: name: reason`, and returns 1.
#
# CI calls `tests/tools.sh begin` before the first check and `tests/tools.sh end` after the last
# one: it lists what was skipped, and fails unless a gRPC client that is not ours has called a peer.
# With DEMES_TOOLS_REQUIRED=1 anything that was skipped is a failure too.

tools_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEMES_TOOLS=${DEMES_TOOLS:-$tools_root/target/tools}
mkdir -p "$DEMES_TOOLS"
DEMES_TOOLS=$(cd "$DEMES_TOOLS" && pwd)
export DEMES_TOOLS
tools_tally=$DEMES_TOOLS/tally # one line each: `SKIPPED: name: reason` or `CLIENT: name`

# tools_skip NAME REASON...: says and counts that a check is not made.
tools_skip() {
    local name=$1
    shift
    printf 'SKIPPED: %s: %s\n' "$name" "$*" | tee -a "$tools_tally" >&2
}

# tools_client NAME: counts a gRPC client that is not ours and has called a peer with success.
tools_client() {
    printf 'CLIENT: %s\n' "$1" >>"$tools_tally"
}

# tools_exit: ends a script whose tool could not be had, after tools_skip has counted it.
tools_exit() {
    exit "${DEMES_TOOLS_REQUIRED:-0}"
}

# tools_has NAME COMMAND: whether COMMAND is on the machine; else NAME is skipped. For what only a
# package manager of the system can install, such as ip or buildah.
tools_has() {
    command -v "$2" >/dev/null && return
    tools_skip "$1" "$2 is not installed"
    return 1
}

# tools_apt PACKAGE COMMAND: makes sure of a Debian package for COMMAND. What needs it says so where it
# could not be had.
tools_apt() {
    local package=$1 command=$2
    command -v "$command" >/dev/null && return
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy \
            --no-install-recommends "$package" >/dev/null || true
    fi
    command -v "$command" >/dev/null || echo "$package could not be installed" >&2
}

# tools_go NAME MODULE@VERSION [GO-FLAG...]: a program of the Go module proxy.
tools_go() {
    local name=$1 module=$2
    shift 2
    tools_has "$name" go || return 1
    local folder=$DEMES_TOOLS/$name-${module##*@}
    _tools_install "$name" "$folder" env GOBIN="$folder/bin" go install "$@" "$module" || return 1
    export PATH="$folder/bin:$PATH"
}

# tools_go_module NAME FOLDER: the tools of a Go module of ours, whose go.mod and go.sum pin them. For
# a program that cannot be installed by its name, since its own module replaces others.
tools_go_module() {
    local name=$1 module=$2
    tools_has "$name" go || return 1
    local folder
    folder=$DEMES_TOOLS/$name-$(cksum <"$module/go.sum" | cut -d ' ' -f 1)
    _tools_install "$name" "$folder" \
        env GOBIN="$folder/bin" go -C "$module" install -trimpath -ldflags=-s tool || return 1
    export PATH="$folder/bin:$PATH"
}

# tools_npm NAME PACKAGE@VERSION: the programs of an npm package.
tools_npm() {
    local name=$1 package=$2
    tools_has "$name" npm || return 1
    local folder=$DEMES_TOOLS/$name-${package##*@}
    _tools_install "$name" "$folder" \
        npm install --no-audit --no-fund --prefix "$folder" "$package" || return 1
    export PATH="$folder/node_modules/.bin:$PATH"
}

# tools_pip NAME REQUIREMENT...: Python packages in an environment of their own. REQUIREMENT is
# PACKAGE==VERSION. The path of its Python stands in TOOLS_PYTHON afterwards.
tools_pip() {
    local name=$1
    shift
    tools_has "$name" python3 || return 1
    local folder
    folder=$DEMES_TOOLS/$name-$(printf '%s\n' "$@" | cksum | cut -d ' ' -f 1)
    _tools_install "$name" "$folder" _tools_venv "$folder" "$@" || return 1
    export TOOLS_PYTHON=$folder/bin/python PATH="$folder/bin:$PATH"
}

_tools_venv() {
    local folder=$1
    shift
    # Debian keeps this apart from Python.
    python3 -c 'import ensurepip' 2>/dev/null || tools_apt python3-venv python3-venv
    python3 -m venv "$folder" && "$folder/bin/python" -m pip install --quiet "$@"
}

# Runs an installation unless an earlier one has succeeded. A folder without its mark is a half one.
_tools_install() {
    local name=$1 folder=$2
    shift 2
    [ -e "$folder/.installed" ] && return
    printf 'installing %s into %s\n' "$name" "$folder" >&2
    rm -rf "$folder"
    mkdir -p "$folder"
    if "$@" >"$folder/.log" 2>&1; then
        touch "$folder/.installed"
    else
        tail -n 20 "$folder/.log" >&2
        tools_skip "$name" "it could not be installed: $(tail -n 1 "$folder/.log")"
        return 1
    fi
}

_tools_end() {
    local clients skipped
    touch "$tools_tally"
    clients=$(sort -u "$tools_tally" | sed -n 's/^CLIENT: //p' | paste -sd ' ')
    skipped=$(grep -c '^SKIPPED: ' "$tools_tally" || true)
    printf 'gRPC clients that are not ours and have called a peer: %s\n' "${clients:-none}"
    grep '^SKIPPED: ' "$tools_tally" || true
    printf '%s skipped\n' "$skipped"
    [ -n "$clients" ] || { echo "no gRPC client but ours has run" >&2; return 1; }
    [ "${DEMES_TOOLS_REQUIRED:-0}" = 0 ] || [ "$skipped" = 0 ]
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    case ${1:-} in
        begin) : >"$tools_tally" ;;
        end) _tools_end ;;
        *) echo "usage: tests/tools.sh begin|end" >&2; exit 2 ;;
    esac
fi
