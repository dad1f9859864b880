# SPDX-License-Identifier: Apache-2.0
"""lmshm-worker as a storage tier of an LMCache server: see adapter.py."""

from lmshm_lmcache.adapter import LmshmL2Adapter
from lmshm_lmcache.config import LmshmL2AdapterConfig

__all__ = ["LmshmL2Adapter", "LmshmL2AdapterConfig"]
