"""Hugging Face's snippet that plots keypoints: python examples/huggingface_plot.py output_image.png

Changed: the imports, local photos, no `return_tensors`, and the name of the picture.
"""

import sys

import matplotlib.pyplot as plt
from PIL import Image
from skimage import data

from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

processor = AutoImageProcessor.from_pretrained()  # or "magic-leap-community/superpoint"
model = SuperPointForKeypointDetection.from_pretrained()

image_1 = Image.fromarray(data.coffee())
image_2 = Image.fromarray(data.rocket())
images = [image_1, image_2]

inputs = processor(images)
outputs = model(**inputs)
image_sizes = [(image.height, image.width) for image in images]
outputs = processor.post_process_keypoint_detection(outputs, image_sizes)

plt.axis("off")
plt.imshow(image_1)
plt.scatter(
    outputs[0]["keypoints"][:, 0],
    outputs[0]["keypoints"][:, 1],
    c=outputs[0]["scores"] * 100,
    s=outputs[0]["scores"] * 50,
    alpha=0.8,
)
plt.savefig(sys.argv[1])
