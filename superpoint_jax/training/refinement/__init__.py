"""Training of the refinement head: keypoints seen in two views, the loss, and the run. Needs the extra `train`."""
