#!/usr/bin/env bash
# Build the API server of Kubernetes into the cache, unless it is there: about 4 minutes, once. Prints where it is.
# With --find nothing is built; a build that is under way elsewhere is waited for.
set -euo pipefail
cd "$(dirname "$0")"

version=$(cat go.mod go.sum main.go | sha256sum | cut -c1-16)
folder="${XDG_CACHE_HOME:-$HOME/.cache}/citadel-tests"
binary="$folder/kube-apiserver-$version"
mkdir -p "$folder"
exec 9>"$folder/lock"
flock 9
if [[ ! -x "$binary" && "${1:-}" != --find ]]; then
    if ! command -v go >/dev/null; then
        echo "no go on the PATH, which builds the API server of Kubernetes for tests: https://go.dev/dl/, any since 1.21" >&2
        exit 1
    fi
    # Renamed at the end: one that is there is whole.
    go build -trimpath -ldflags='-s -w' -o "$binary.new" . 9>&-
    mv "$binary.new" "$binary"
fi
[[ -x "$binary" ]] && echo "$binary"
