"""From a folder of any number of images to files of features, surviving whatever happens in between.

The way of an image: `sources` names it, `plan` puts it in a batch with others of about its size, `decoding` reads it in
another process, `run` extracts and writes it to a part, `parts` keeps what is done, and `hloc`, `parquet` or `colmap`
make the parts into what was asked for.
"""

from superpoint_jax.bulk.run import BulkOptions as BulkOptions
from superpoint_jax.bulk.run import BulkReport as BulkReport
from superpoint_jax.bulk.run import extract_files as extract_files
