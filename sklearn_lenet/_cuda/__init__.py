"""Training and prediction on a CUDA device: what takes the place of `_engine.py` there.

`engine.py` has it by CuPy's operations, `steps.py` by kernels of our own.
"""

from .engine import DeviceEngine
from .steps import CudaEngine

__all__ = ["CudaEngine", "DeviceEngine"]
