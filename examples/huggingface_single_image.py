"""Hugging Face's snippet for one image. Changed: the imports, a local photo, and no `return_tensors`."""

from PIL import Image
from skimage import data

from superpoint_jax.huggingface import AutoImageProcessor, SuperPointForKeypointDetection

image = Image.fromarray(data.astronaut())

processor = AutoImageProcessor.from_pretrained()  # or "magic-leap-community/superpoint"
model = SuperPointForKeypointDetection.from_pretrained(device_map="auto")

inputs = processor(image).to(model.device)
outputs = model(**inputs)

# Post-process to get keypoints, scores, and descriptors
image_size = (image.height, image.width)
processed_outputs = processor.post_process_keypoint_detection(outputs, [image_size])

for name, values in processed_outputs[0].items():
    print(name, values.shape, values.dtype)
