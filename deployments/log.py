"""The service's logger, below Serve's own: lines get Serve's format, file and request id."""

import logging

logger = logging.getLogger("ray.serve.zimage")
