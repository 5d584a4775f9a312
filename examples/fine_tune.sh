#!/usr/bin/env bash
# Fine-tune the weights in the package on a folder of your own photos.
#
#   examples/fine_tune.sh PHOTOS RUN [--steps N] [any option of `superpoint-jax train superpoint`]
#
# Writes RUN/weights, for sp.from_pretrained. You can stop it at any time; the same command continues. Replace "ours" to start
# from other weights; --validate FOLDER measures on held-out photos. Needs pip install 'superpoint-jax[train]'.
set -euo pipefail
photos=${1:?usage: examples/fine_tune.sh PHOTOS RUN} run=${2:?usage: examples/fine_tune.sh PHOTOS RUN}
superpoint-jax train superpoint --data "$photos" --from ours -o "$run" --steps 2000 --learning-rate 3e-4 --clip-norm 2 "${@:3}"
superpoint-jax evaluate homographies "$photos" --weights "$run/weights" --extractors ours --photos 20
