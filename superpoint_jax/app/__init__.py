"""A page for the browser: one photo for its keypoints, two for their matches. Served from this machine alone."""
