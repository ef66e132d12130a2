"""What worker processes are forked from imports this: the modules that packing needs, with their kernels compiled.

Numba reads a kernel from its cache when it is first called, a quarter of a second for all: so it is paid once, while
the main process lists the source, and not by every worker.
"""

import numpy as np
import simplejpeg

from sharding.statistics import Sums
from sharding.worker import pack_picture

_GRAY = np.full((300, 300, 3), 128, np.uint8)

pack_picture(simplejpeg.encode_jpeg(_GRAY), Sums(), quality=95, resample="area", encoding="jpeg")
