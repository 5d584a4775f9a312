"""Hugging Face's snippets for images of different sizes, by the mask and by post-processing.

Changed: the imports, local photos, no `return_tensors="pt"` (which is accepted, too), and `jnp.nonzero` instead of
`torch.nonzero`.
"""

import jax.numpy as jnp
from PIL import Image
from skimage import data

from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

processor = AutoImageProcessor.from_pretrained()  # or "magic-leap-community/superpoint"
model = SuperPointForKeypointDetection.from_pretrained()

image_1 = Image.fromarray(data.astronaut())
image_2 = Image.fromarray(data.coffee())
image_3 = Image.fromarray(data.chelsea())
images = [image_1, image_2, image_3]

inputs = processor(images)
outputs = model(**inputs)

for i in range(len(images)):
    image_mask = outputs.mask[i]
    image_indices = jnp.nonzero(image_mask)[0]
    image_keypoints = outputs.keypoints[i][image_indices]
    image_scores = outputs.scores[i][image_indices]
    image_descriptors = outputs.descriptors[i][image_indices]
    print(i, image_keypoints.shape, image_scores.shape, image_descriptors.shape)

# Coordinates in pixels of the original images.
image_sizes = [(image.height, image.width) for image in images]
outputs = processor.post_process_keypoint_detection(outputs, image_sizes)

for output in outputs:
    strongest = zip(output["keypoints"][:3], output["scores"], output["descriptors"], strict=False)
    for keypoint, score, descriptor in strongest:
        print(f"keypoint {keypoint} score {score:.3f} descriptor {descriptor[:2]}...")
