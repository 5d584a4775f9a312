#!/usr/bin/env bash
# All measurements on a GPU or TPU, in one call of at most nine minutes: parity first, then speed, then pictures.
#
#   benchmarks/accelerator.sh OUT
#
# writes OUT/parity.txt and OUT/*.json; keep the JSON files in benchmarks/results/DATE-DEVICE/. It needs jax for the
# device, torch and transformers. What is missing is skipped with a message. If a step fails, the others still run.
set -uo pipefail
out=$(realpath -m "${1:?usage: benchmarks/accelerator.sh OUT}")
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
# Several contenders use the device, one at a time, so none may reserve all of its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
python=${PYTHON:-python3}
failed=0

step() {  # seconds, name, command...
  local limit=$1 name=$2; shift 2
  echo "== $name"
  timeout "$limit" "$@" 2>&1 | tee "$out/$name.txt" || { echo "$name: failed"; failed=1; }
}

measure() {  # seconds, name, options...
  local limit=$1 name=$2; shift 2
  step "$limit" "$name" "$python" -m benchmarks --json "$out/$name.json" --rounds 5 --calls 10 "$@"
}

samples=$("$python" -c 'import matplotlib; print(matplotlib.get_data_path())')/sample_data

step 20 device "$python" -c 'import jax; print(jax.__version__, jax.devices())'
step 80 parity "$python" -m convert superpoint_jax/weights/data/superpoint_jax.safetensors -o "$out/model" --verify
rm -rf "$out/model"
step 40 agreement "$python" -m benchmarks.agreement --json "$out/agreement.json"
measure 50 stages --batch 32 --suite stages
measure 90 batch32 --batch 32 --suite network decoding end-to-end
measure 60 batch1 --suite network decoding end-to-end match
measure 50 train-step --suite train-step --batch 32 --height 240 --width 320 --contenders superpoint_jax torch transformers
measure 50 sweep-batch --sweep batch --suite end-to-end --contenders superpoint_jax --rounds 3
measure 50 sweep-resolution --sweep resolution --suite end-to-end --contenders superpoint_jax --rounds 3
step 40 bulk "$python" -m benchmarks.bulk "$samples" --images 4000 --json "$out/bulk.json"
step 10 pictures "$python" -m benchmarks.draw "$out"/{batch32,batch1,train-step,sweep-batch,sweep-resolution}.json -o "$out"
exit $failed
