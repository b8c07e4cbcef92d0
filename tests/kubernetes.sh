#!/usr/bin/env bash
# Renders the base and the overlays of k8s/, and checks what comes out: by the schemas of three
# versions of Kubernetes, by a policy checker, and against what the program and the Dockerfile do.
# It needs no cluster. k8s/policy.yaml says which rules of the policy checker do not count, and why.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/tools.sh

# The oldest that has all that the manifests use switched on for good, to the newest that is known.
versions=(1.33 1.35 1.37)
rendered=$PWD/target/manifests
spoiled=$(mktemp -d)
trap 'rm -rf "$spoiled"' EXIT

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

if command -v kubectl >/dev/null; then
    render=(kubectl kustomize)
else
    tools_go kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.6.0 || tools_exit
    render=(kustomize build)
fi

rm -rf "$rendered"
mkdir -p "$rendered"
for directory in k8s/base k8s/overlays/*/; do
    "${render[@]}" "$directory" >"$rendered/$(basename "$directory").yaml" || fail "$directory"
done
echo "Rendered by ${render[*]}: $(cd "$rendered" && wc -l -- *.yaml | sed '$d' | xargs)"

validate() {
    local version
    for version in "${versions[@]}"; do
        kubernetes-validate --strict --kubernetes-version "$version" "$@" >"$spoiled/said" 2>&1 || return 1
    done
}

if tools_pip kubernetes-validate kubernetes-validate==1.37.0; then
    # A field that does not exist must be found, or else nothing is looked at.
    sed 's/podManagementPolicy/podManagmentPolicy/' "$rendered/base.yaml" >"$spoiled/field.yaml"
    ! validate "$spoiled/field.yaml" || fail "a field that does not exist is not found"
    validate "$rendered"/*.yaml || { grep -v ^INFO "$spoiled/said"; fail "the schemas"; }
    echo "Valid for Kubernetes ${versions[*]}: $(grep -c ^INFO "$spoiled/said") objects each."
fi

if tools_pip checkov checkov==3.3.30; then
    sed 's/readOnlyRootFilesystem: true/readOnlyRootFilesystem: false/' "$rendered/base.yaml" \
        >"$spoiled/root.yaml"
    # Its root is named, since it would look for files of its configuration in the working directory.
    if checkov --config-file k8s/policy.yaml --file "$spoiled/root.yaml" >"$spoiled/said" 2>&1; then
        fail "a pod that may write into its image is not found"
    fi
    grep -q CKV_K8S_22 "$spoiled/said" || { cat "$spoiled/said"; fail "checkov"; }
    files=()
    for file in "$rendered"/*.yaml Dockerfile; do files+=(--file "$file"); done
    checkov --config-file k8s/policy.yaml "${files[@]}" || fail "the policies"
    echo "checkov $(checkov --version) has nothing to say."
fi

RENDERED_MANIFESTS=$rendered cargo test --locked --release --quiet --test manifests
