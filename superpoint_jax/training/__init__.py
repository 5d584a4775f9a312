"""Training: synthetic shapes, homographic adaptation, augmentation, losses, the loop. Needs the extra `train`."""
