#!/usr/bin/env bash
# Trains every folder that lower.py wrote at the same time on one GPU, through CUDA's multi-process
# service where there is one: small networks leave most of a large GPU idle.
#
#     benchmarks/gpu/side_by_side.sh MINUTES OUT FOLDER...
#
# OUT receives NAME.npz and NAME.txt of each.
set -euo pipefail
minutes=$1 out=$2
shift 2
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ $(for folder in "$@"; do basename "$folder"; done | sort | uniq -d) ]]; then
    echo "two folders of one name would write one file; rename one" >&2
    exit 2
fi
mkdir -p "$out"
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
mps=
stop() {
    running="$(jobs -pr)" # deaf to Ctrl-C, which a script's background jobs ignore
    if [[ $running ]]; then kill $running; wait || true; fi
    if [[ $mps ]]; then echo quit | nvidia-cuda-mps-control || true; rm -rf "$mps"; fi
}
trap stop EXIT
trap 'exit 130' INT TERM
if command -v nvidia-cuda-mps-control > /dev/null; then
    CUDA_MPS_PIPE_DIRECTORY="$(mktemp -d)"
    export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY="$CUDA_MPS_PIPE_DIRECTORY"
    nvidia-cuda-mps-control -d
    mps="$CUDA_MPS_PIPE_DIRECTORY"
fi
jobs=()
for folder in "$@"; do
    name="$(basename "$folder")"
    python3 "$here/train.py" "$folder" --minutes "$minutes" --out "$out/$name.npz" \
        > "$out/$name.txt" 2>&1 &
    jobs+=($!)
done
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
tail -n 2 "$out"/*.txt
exit "$failed"
