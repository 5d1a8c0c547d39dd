"""The experiments of Li et al. 2025 (arXiv 2503.02039), as published and at equal bills: `dsearch reproduce`.

python benchmarks/paper.py --dtype bfloat16 --out reproduce-out         # the model in the box
python benchmarks/paper.py --help                                       # Stable Diffusion v1.5 with its weights
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dsearch.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
