"""A page for the browser that shows the keypoints of one photo or the matches of two; it runs on this machine only."""
