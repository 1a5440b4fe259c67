"""Where kernels are tested: on the GPU if there is one, else in Triton's interpreter."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NO_TRITON = "Triton is not installed: this torch is for CPUs alone"
