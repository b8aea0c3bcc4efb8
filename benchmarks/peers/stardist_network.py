"""Time of StarDist's network alone, of its configuration `2D_versatile_fluo`, in TensorFlow.

For each line "SIDE SECONDS" of the input it answers frames of that side for that time, and prints
the median time of one, milliseconds. The weights are random, which does not change the time. Its
post-processing (non-maximum suppression of polygons) is not part of it.
"""

import sys
import time
from contextlib import redirect_stdout

import numpy as np
import tensorflow as tf
from stardist.models import Config2D, StarDist2D

THREADS = 2


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # What `2D_versatile_fluo` says in its config.json; the rest are StarDist's defaults.
    config = Config2D(axes="YXC", n_channel_in=1, n_rays=32, grid=(2, 2), unet_n_depth=3)
    with redirect_stdout(sys.stderr):
        network = StarDist2D(config, name=None, basedir=None).keras_model
    answer = tf.function(lambda frame: network(frame, training=False))
    for line in sys.stdin:
        side, seconds = line.split()
        frame = tf.constant(
            np.random.default_rng(0).random((1, int(side), int(side), 1)), "float32"
        )
        answer(frame)
        times: list[float] = []
        while sum(times) < float(seconds):
            started = time.perf_counter()
            [part.numpy() for part in answer(frame)]
            times.append(time.perf_counter() - started)
        print(f"{1e3 * float(np.median(times)):.1f}", flush=True)


if __name__ == "__main__":
    main()
