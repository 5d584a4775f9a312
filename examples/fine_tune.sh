#!/usr/bin/env bash
# Our weights, fine-tuned on a folder of photos of one's own.
#
#   examples/fine_tune.sh PHOTOS RUN [--steps N] [any option of `superpoint-jax train superpoint`]
#
# Writes RUN/weights, for sp.from_pretrained. Stop it whenever you like: the same command goes on where it was. Start from
# other weights by replacing "ours"; watch held-out photos with --validate FOLDER. Needs pip install 'superpoint-jax[train]'.
set -euo pipefail
photos=${1:?usage: examples/fine_tune.sh PHOTOS RUN} run=${2:?usage: examples/fine_tune.sh PHOTOS RUN}
superpoint-jax train superpoint --data "$photos" --from ours -o "$run" --steps 2000 --learning-rate 3e-4 --clip-norm 2 "${@:3}"
superpoint-jax evaluate homographies "$photos" --weights "$run/weights" --extractors ours --photos 20
