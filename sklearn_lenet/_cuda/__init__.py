"""Training and prediction on a CUDA device: engines that inherit from the CPU's.

`engine.py` has it by CuPy's operations, `steps.py` by kernels of our own.
"""

from .engine import DeviceEngine
from .steps import CudaEngine

__all__ = ["CudaEngine", "DeviceEngine"]
