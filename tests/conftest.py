"""One thread a test run, and hypothesis examples that are the same everywhere."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("dsearch", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dsearch")
