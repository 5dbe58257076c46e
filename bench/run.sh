#!/usr/bin/env bash
# A scenario of the performance contract against this checkout's build; the flags are those of
# `svc-wallet-bench run`:
#
#	bench/run.sh --scenario write_mix --duration 10m --rate 2500 --html report.html
set -euo pipefail
cd "$(dirname "$0")/.."
make -s build
exec go run ./bench/svc-wallet-bench run "$@"
