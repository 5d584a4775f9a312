#!/usr/bin/env bash
# Train the weights in the package from a folder of photos; docs/training.md explains each step and its results.
#
#   examples/train_weights.sh PHOTOS RUN
#
# Writes RUN/weights (for from_pretrained) and RUN/superpoint_jax.safetensors (float16, as in the package). It takes about
# seven hours on two CPU cores. You can stop it at any time; the same command continues. On an accelerator, set more STEPS.
set -euo pipefail
photos=${1:?usage: examples/train_weights.sh PHOTOS RUN} run=${2:?usage: examples/train_weights.sh PHOTOS RUN}
steps=${STEPS:-3600} first=${FIRST_STEPS:-1250} shapes=${SHAPE_STEPS:-1500} homographies=${HOMOGRAPHIES:-40}
own=${OWN_STEPS:-4500} last=${LAST_STEPS:-2000}
mkdir -p "$run"
common=(--seed "${SEED:-0}")

if [ ! -e "$run/magicpoint/weights/config.json" ]; then
  superpoint-jax train magicpoint -o "$run/magicpoint" --steps "$shapes" --shapes 16 --shape 120 160 --strength 0.5 \
    --clip-norm 1 --learning-rate 1e-3 "${common[@]}"
fi
if [ ! -e "$run/corners.npz" ]; then
  superpoint-jax train adapt --data "$photos" -o "$run/corners.npz" --max-corners 400 --homographies "$homographies"
fi
if [ ! -e "$run/corners/weights/config.json" ]; then
  superpoint-jax train superpoint --labels "$run/corners.npz" -o "$run/corners" --from "$run/magicpoint/weights" \
    --steps 4500 --stop-after "$first" --shapes 4 --clip-norm 2 --warmup 0.05 "${common[@]}"
fi
if [ ! -e "$run/magicpoint.npz" ]; then
  superpoint-jax train adapt --data "$photos" -o "$run/magicpoint.npz" --detector "$run/magicpoint/weights" \
    --homographies $((homographies * 2 / 5)) --side 400 --max-corners 400 --seed 5 --dtype bfloat16
fi
superpoint-jax train superpoint --labels "$run/magicpoint.npz" -o "$run/joint" --from "$run/corners/weights" \
  --steps "$steps" --shapes 4 --clip-norm 2 --learning-rate 1e-3 --warmup 0.05 "${common[@]}"
if [ ! -e "$run/own.npz" ]; then
  superpoint-jax train adapt --data "$photos" -o "$run/own.npz" --detector "$run/joint/weights" \
    --homographies $((homographies * 2 / 5)) --side 400 --max-corners 400 --seed 7 --dtype bfloat16
fi
superpoint-jax train superpoint --labels "$run/own.npz" -o "$run/second" --from "$run/joint/weights" \
  --steps "$own" --shapes 4 --scale 0.6 1.6 --perspective 0.28 --rotation 0.35 --clip-norm 2 --learning-rate 1e-3 --warmup 0.05 \
  --seed "${SECOND_SEED:-2}"
if [ ! -e "$run/own_again.npz" ]; then
  superpoint-jax train adapt --data "$photos" -o "$run/own_again.npz" --detector "$run/second/weights" \
    --homographies $((homographies / 2)) --side 400 --max-corners 400 --seed 11 --dtype bfloat16
fi
superpoint-jax train superpoint --labels "$run/own_again.npz" -o "$run/third" --from "$run/second/weights" \
  --steps "$last" --shapes 4 --scale 0.6 1.6 --perspective 0.28 --rotation 0.35 --clip-norm 2 --learning-rate 7e-4 --warmup 0.05 \
  --seed "${THIRD_SEED:-3}"
superpoint-jax train refinement --data "$photos" -o "$run/refinement" --extractor "$run/third/weights" \
  --pairs "${HEAD_PAIRS:-1280}" --steps "${HEAD_STEPS:-16000}"
for sharpness in 1 1.4; do
  superpoint-jax train repeats --data "$photos" -o "$run/repeats_$sharpness" --extractor "$run/refinement/weights" \
    --pairs "${REPEAT_PAIRS:-1280}" --steps "${REPEAT_STEPS:-900}" --sharpness "$sharpness"
done
# The mean of the weights of both runs, which began with the same weights, is better than either of them.
python3 -c 'import sys, jax, superpoint_jax as sp, superpoint_jax.weights as w
plain, sharp = (sp.from_pretrained(path) for path in sys.argv[1:3])
w.save_pretrained(jax.tree.map(lambda a, b: 0.55 * a + 0.45 * b, plain, sharp), sys.argv[3])' \
  "$run/repeats_1/weights" "$run/repeats_1.4/weights" "$run/weights"
python3 -c 'import sys, superpoint_jax as sp, superpoint_jax.weights as w
w.save_weights(sp.from_pretrained(sys.argv[1]), sys.argv[2], dtype="float16")' "$run/weights" "$run/superpoint_jax.safetensors"
echo "wrote $run/weights and $run/superpoint_jax.safetensors"
