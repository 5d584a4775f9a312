"""Keypoints and descriptors of any number of photos, written to files by a run that can be interrupted at any time.

The steps for a photo: `sources` names it; `photos.plan` puts it into a batch with others of about its size; `reading`
reads it in another process; `run` extracts its keypoints; `writing` writes them to a part; `parts` keeps the parts that
are done; `outputs` turns the parts into the output, with `hloc` and `colmap` for the formats, `cameras` for those of a
COLMAP database, and `pairs` and `similar` for what is matched. `options` are those of a run.
"""

from superpoint_jax.bulk.options import BulkOptions as BulkOptions
from superpoint_jax.bulk.options import BulkReport as BulkReport
from superpoint_jax.bulk.run import extract_files as extract_files
