"""A run on a local Ray cluster of two nodes, one of whose actors is killed at work; for test_bulk_long.py.

python tests/ray_driver.py FOLDER OUTPUT WEIGHTS prints a line of JSON at the end, and puts the result of this process
alone into one.h5 beside the output.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

import superpoint_jax as sp
from superpoint_jax.bulk import BulkOptions, extract_files
from superpoint_jax.bulk.cluster import RayExecutor


def main() -> None:
    folder, output, weights = sys.argv[1:4]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 2**27})
    cluster.add_node(num_cpus=2, object_store_memory=2**27)
    ray.init(address=cluster.address, log_to_driver=False)
    seen: dict[str, object] = {"killed": 0, "nodes": []}

    def kill_one() -> None:
        """Once both nodes have an actor at work and the first part is there, the process of one is killed."""
        parts = Path(output + ".parts")
        while True:
            time.sleep(0.02)
            locks = sorted(parts.glob("actor-*[0-9a-f]"), key=lambda path: path.stat().st_mtime)
            nodes = sorted({path.name.split("-")[1] for path in locks})
            if len(nodes) == 2 and list(parts.glob("part-*.h5")):
                break
        pid = int(locks[-1].name.split("-")[2])
        os.kill(pid, signal.SIGKILL)
        seen.update(killed=pid, nodes=nodes)

    threading.Thread(target=kill_one, daemon=True).start()
    common = dict(
        model=sp.from_pretrained(weights),
        processor=sp.SuperPointImageProcessor(),
        options=BulkOptions(max_keypoints=100, part=6, batch=3, workers=0, devices=1),
    )
    # Each takes more than half of a node, so that both nodes have one.
    report = extract_files(folder, output, executor=RayExecutor(actors=2, cpus=1.5), **common)
    extract_files(folder, Path(output).with_name("one.h5"), **common)
    print(json.dumps({**seen, "extracted": report.extracted, "failures": sorted(report.failures)}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
