#!/usr/bin/env bash
# Everything that wants a GPU, in order: parity, times, measured launch choices, memory checks, pages.
#
#   bash bench/on_gpu.sh [STAGE ...]        stages: parity bench tune tuned sweep sanitize pages
#
# Results go to $OUT (bench/results/gpu). A stage takes at most ten minutes on an H200 and does not
# stop the ones after it; the last line names those that failed, and the exit status is their number.
# DRY_RUN=1 prints the commands alone.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=".:kernels${PYTHONPATH:+:$PYTHONPATH}"
out=${OUT:-bench/results/gpu}
stages=("$@")
[ $# -gt 0 ] || stages=(parity bench tune tuned sweep sanitize pages)
failed=()

run() { # run LOG COMMAND...
    local log=$out/$1
    shift
    echo "+ $*"
    [ -z "${DRY_RUN:-}" ] || return 0
    mkdir -p "$out"
    timeout 590 "$@" 2>&1 | tee "$log"
}

bench() { # bench NAME OPTIONS...: in a folder of its own
    local name=$1
    shift
    run "$name.txt" python -m bench --device cuda --no-compile --out "$out/$name" "$@"
}

sanitizer() { # sanitizer TOOL CASE
    local quick=(python -m bench --device cuda --quick --no-plot --no-compile --out "$out/quick")
    run "$1.txt" compute-sanitizer --tool "$1" "${quick[@]}" --only "$2"
}

stage() {
    case $1 in
    parity) run parity.txt python -m pytest tests/kernels -q -p no:cacheprovider ;;
    bench) FASTRECON_TUNE=0 bench defaults ;;
    tune)
        run tune-triposr.txt python -m fastrecon_kernels.tune --preset triposr &&
            run tune-g3dr.txt python -m fastrecon_kernels.tune --preset g3dr
        ;;
    tuned) bench tuned --only render_rays typical ;;
    sweep) FASTRECON_TUNE=0 bench sweep --only sweep --budget 0.5 ;;
    sanitize)
        if [ -z "${DRY_RUN:-}" ] && ! command -v compute-sanitizer >/dev/null; then
            echo "compute-sanitizer is not on PATH (it comes with the CUDA toolkit): not checked"
            return 1
        fi
        sanitizer memcheck render_rays && sanitizer racecheck "render_rays A"
        ;;
    pages)
        local result
        result=$(ls -t "$out"/defaults/*.json 2>/dev/null | head -n 1)
        if [ -z "${DRY_RUN:-}" ] && [ -z "$result" ]; then
            echo "no result in $out/defaults: run the stage bench before"
            return 1
        fi
        for page in README.md docs/performance.md; do
            run pages.txt python -m bench page "${result:-RESULT.json}" "$page" || return 1
        done
        ;;
    *)
        echo "no stage $1; there are parity bench tune tuned sweep sanitize pages"
        return 1
        ;;
    esac
}

if [ -z "${DRY_RUN:-}" ] && ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "bench/on_gpu.sh: needs a GPU that torch can use"
    exit 2
fi
for name in "${stages[@]}"; do
    echo "== $name"
    stage "$name" || failed+=("$name")
done
echo "failed: ${failed[*]:-none}"
exit "${#failed[@]}"
