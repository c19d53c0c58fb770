#!/usr/bin/env bash
# Makes a release build and leaves ./xcron_server here. `build.sh verify` runs what CI runs.
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-build}" in
    build)
        cargo build --release --locked --bin xcron_server
        # Beside the old one, then in its place: a node that runs keeps its own.
        cp "${CARGO_TARGET_DIR:-target}/release/xcron_server" .xcron_server.new
        mv -f .xcron_server.new xcron_server
        ;;
    verify)
        exec bash .ci/run
        ;;
    *)
        echo "usage: build.sh [build|verify]" >&2
        exit 2
        ;;
esac
