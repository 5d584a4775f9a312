"""Training of LightGlue: pairs of images with known matches, the loss, and the run. Needs the extra `train`."""
