"""Training of the detector's head to find keypoints that other views repeat. Needs the extra `train`."""
